//! `include/lowrank.h` says what `src/ffi` does: it is generated again here and compared. Refresh
//! it with `LOWRANK_REFRESH=1 cargo test --features capi --test header`.

use std::fmt::Write;
use std::path::Path;

use cbindgen::{Builder, Config, DocumentationStyle, Language, Style};

/// The chapters of the header, in their order.
const FILES: [&str; 15] = [
    "failure",
    "about",
    "base",
    "adapter",
    "set",
    "choice",
    "sampler",
    "executor",
    "limits",
    "session",
    "requests",
    "encoder",
    "recurrent",
    "predictor",
    "panic",
];
/// Those that only libraries built with `std` have, with `text`, `import` or `train` besides.
const STD_FILES: [&str; 9] =
    ["file", "text", "chat", "generate", "import", "example", "train_options", "train", "measure"];
/// Structs of options, and what their defaults ask for.
const OPTIONS: [(&str, &str, &str); 9] = [
    ("sampling", "sampling", ""),
    ("limits", "limits", "context"),
    ("encoder_limits", "limits", "context"),
    ("recurrent_limits", "limits", ""),
    ("predictor_limits", "limits", "batch"),
    ("train_options", "options", ""),
    ("evaluate_options", "options", ""),
    ("import_options", "options", ""),
    ("adapter_import_options", "options", ""),
];

const HEADER: &str = "\
/*
 * lowrank.h: one 4-bit base model with many swappable low-rank adapters, without a heap.
 *
 * Generated from src/ffi by the crate's tests (tests/header.rs). Do not edit. C99 and C++17.
 *
 * The rules of every function
 *
 * - Objects live in memory of the caller: at a multiple of LOWRANK_OBJECT_ALIGN, as large as its lowrank_..._bytes() says. For a static
 *   buffer take the constant LOWRANK_..._BYTES, e.g. `static uint64_t memory[LOWRANK_BASE_BYTES / 8];`. An open object must not be copied
 *   or moved. lowrank_..._open sets the pointer to it, or null where it fails; lowrank_..._close frees its memory for anything. Closing in
 *   the reverse order of opening is always right. What may be closed sooner: everything but what others lie over, which are files, the
 *   memory of archives and workspaces, and pools of threads. Only files, threads, texts and streams own more than their memory: those must
 *   be closed.
 * - Structs of options begin with their size. Start from lowrank_..._default(), which sets it and every default: then a program goes on
 *   working with later libraries, whose new options have their defaults, and with earlier ones, unless it sets what those do not know
 *   (LOWRANK_ERROR_OPTIONS_SIZE).
 * - Archives are used in place and never written: they start at a multiple of LOWRANK_MEMORY_ALIGN and stay, unchanged, as long as
 *   anything opened from them is used.
 * - A function returns LOWRANK_OK or a code. The last argument may be null, else it is filled when the function fails;
 *   lowrank_error_message makes a sentence of it. A function that failed has changed nothing, except where its comment says so.
 * - Null pointers, misaligned pointers, lengths past the end of the address space, arguments that overlap each other or memory that an
 *   object uses (the memory that an object is opened in excepted: close what was open there first), objects that were never opened, were closed or were copied: all refused with a code. What cannot be seen is a pointer to
 *   memory that is not there or shorter than said.
 * - Threads: bases, adapters, files, texts and pools are only read, by any number of threads. Sets, sessions (recurrent ones too),
 *   encoders, predictors, samplers and streams serve one call at a time; another one meanwhile, also from inside an executor's callback, gets LOWRANK_ERROR_BUSY. Closing an object while
 *   another thread uses it is not detected. Nothing blocks but training, evaluation, estimates and import, only these, files, pools,
 *   texts, streams and lowrank_generate allocate, and there are no globals; sessions on cards do, allocate, and share what is on a card. From an interrupt handler only objects may be used that nothing else uses.
 * - The hosted library catches its own panics (LOWRANK_ERROR_PANICKED); see lowrank_on_panic for the one without std.
 */
";

/// `CacheOfOtherAdapters` as `CACHE_OF_OTHER_ADAPTERS`.
fn screaming(name: &str) -> String {
    let mut out = String::new();
    for (i, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(letter.to_uppercase());
    }
    out
}

/// The codes as C has them, and what cbindgen cannot say.
fn preamble() -> String {
    let mut text = String::from(
        "\n/* What functions return. A code never changes its meaning; new ones may come. */\nenum {\n    LOWRANK_OK = 0,\n",
    );
    for (code, name, sentence) in lowrank::ffi::codes() {
        writeln!(text, "    /* {sentence} */\n    LOWRANK_ERROR_{} = {code},", screaming(name))
            .unwrap();
    }
    text.push_str("};\n");
    text.push_str("\n/* Memory that is enough for a set with this many slots. */\n");
    text.push_str("#define LOWRANK_SET_BYTES(slots) (LOWRANK_SET_HEAD_BYTES + (size_t)(slots) * LOWRANK_SLOT_BYTES)\n");
    text.push_str("\n/* The adapter in a slot as it was trained: `lowrank_choice choice = LOWRANK_CHOICE(0);`, or in an array of them. */\n");
    text.push_str("#define LOWRANK_CHOICE(slot) {(uint32_t)(slot), 1.0f, 0}\n");
    text
}

/// The functions that return options. They are the program's: its size of the struct counts.
fn trailer() -> String {
    let mut text = String::from(
        "/* The defaults of a struct of options, which begins with its size. Functions of the program, not of the library: so the\n \
         * struct is as large as the program knows it. */\n",
    );
    for (name, variable, asked) in OPTIONS {
        let (parameter, argument) = match asked {
            "" => ("void".into(), String::new()),
            asked => (format!("size_t {asked}"), format!(", {asked}")),
        };
        writeln!(
            text,
            "\nstatic inline lowrank_{name} lowrank_{name}_default({parameter}) {{\n    lowrank_{name} {variable};\n    \
             lowrank_{name}_init(&{variable}, sizeof {variable}{argument});\n    return {variable};\n}}"
        )
        .unwrap();
    }
    text
}

/// The header that the sources make.
fn generate() -> String {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    let config = Config {
        language: Language::C,
        cpp_compat: true,
        style: Style::Both,
        header: Some(HEADER.into()),
        include_guard: Some("LOWRANK_H".into()),
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        after_includes: Some(preamble()),
        usize_is_size_t: true,
        documentation: true,
        documentation_style: DocumentationStyle::Doxy,
        line_length: 120,
        tab_width: 4,
        ..Config::default()
    };
    let mut builder = Builder::new().with_config(config);
    for file in FILES.iter().chain(&STD_FILES) {
        builder = builder.with_src(sources.join(format!("{file}.rs")));
    }
    let mut header = Vec::new();
    builder.generate().expect("src/ffi is readable by cbindgen").write(&mut header);
    let header = String::from_utf8(header).unwrap();
    // Inside the include guard, where cbindgen has no place for a trailer.
    let (body, guard) = header.split_at(header.rfind("#endif").unwrap());
    format!("{body}{}\n{guard}", trailer())
}

#[test]
fn the_committed_header_is_what_the_sources_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/lowrank.h");
    let generated = generate();
    if std::env::var_os("LOWRANK_REFRESH").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let first = committed
        .lines()
        .zip(generated.lines())
        .position(|(a, b)| a != b)
        .unwrap_or(committed.lines().count());
    assert!(
        committed == generated,
        "include/lowrank.h is stale from line {}: run `LOWRANK_REFRESH=1 cargo test --features capi --test header` and look at the diff",
        first + 1
    );
}

/// Every function of the sources is in the header: cbindgen skips what it cannot read with no more
/// than a warning.
#[test]
fn no_function_is_missing_from_the_header() {
    let header = generate();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    let mut count = 0;
    for file in std::fs::read_dir(sources).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in source
            .lines()
            .filter(|line| line.starts_with("pub") && line.contains("extern \"C\" fn "))
        {
            let name = line.split("fn ").nth(1).and_then(|rest| rest.split('(').next()).unwrap();
            assert!(header.contains(&format!("{name}(")), "{name} is not in the header");
            count += 1;
        }
    }
    assert!(count > 40, "only {count} functions found in src/ffi");
}

/// A code keeps its number, and no two share one.
#[test]
fn codes_are_unique_and_documented() {
    let mut seen = std::collections::HashSet::new();
    for (code, name, sentence) in lowrank::ffi::codes() {
        assert!(code > 0 && seen.insert(code), "code {code} ({name}) is taken");
        assert!(sentence.ends_with('.') && !sentence.contains("*/"), "{name}: {sentence}");
    }
    assert!(seen.contains(&1) && seen.contains(&39) && seen.contains(&1000));
}
