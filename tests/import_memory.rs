//! An import holds the result and two tensors, not the model; and one that fails leaves neither a
//! new file nor a changed old one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lowrank::Error;
use lowrank::archive::{HEADER_LEN, Header, Output, schema, to_buffer, write};
use lowrank::file::FileError;
use lowrank::import::{BaseOptions, Source, Tensor, TextParts, base_to_buffer, write_base};
use lowrank::model::llama::{Config, Llama, RopeScaling, Site};
use lowrank::quant::{Format, OwnedMatrix};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts the bytes that are allocated, and the most there have been.
struct Counting;

fn grow(by: usize) {
    let now = NOW.fetch_add(by, Ordering::Relaxed) + by;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system allocator unchanged. A reallocation counts both blocks, as
// if it always moved.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

const CONFIG: Config = Config {
    vocab: 2000,
    dim: 256,
    layers: 12,
    heads: 8,
    kv_heads: 4,
    head_dim: 32,
    hidden: 704,
    context: 128,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::None,
    norm_epsilon: 1e-5,
};

/// A model whose tensors are made when they are asked for; one of them may hold a NaN.
struct Synthetic {
    config: Config,
    damaged: &'static str,
}

impl Synthetic {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let numbers = 0..self.config.sites() as u32;
        let mut sites = numbers.filter_map(|number| Site::from_number(number, self.config.layers));
        let matrix = sites.find(|site| {
            name.strip_suffix(".weight").is_some_and(|module| module == site.to_string())
        });
        let norm = name.contains("norm").then(|| vec![self.config.dim]);
        matrix.map(|site| site.shape(&self.config)).map(|(rows, cols)| vec![rows, cols]).or(norm)
    }
}

impl Source for Synthetic {
    fn path(&self) -> &Path {
        Path::new("synthetic")
    }

    fn name(&self) -> String {
        "synthetic".into()
    }

    fn config(&self) -> Result<Config, FileError> {
        Ok(self.config)
    }

    fn text(&self) -> Result<TextParts, FileError> {
        Ok(TextParts::default())
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        let Some(shape) = self.shape(name) else { return Ok(None) };
        let mut values: Vec<f32> =
            (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.37).sin() + 0.01).collect();
        if name == self.damaged {
            values[17] = f32::NAN;
        }
        Ok(Some(Tensor::Dense { shape, values }))
    }

    fn names(&self) -> Vec<String> {
        let layers = self.config.layers;
        let matrices = (0..self.config.sites() as u32)
            .filter_map(|number| Site::from_number(number, layers))
            .map(|s| format!("{s}.weight"));
        let norms = (0..layers).flat_map(|i| {
            ["input", "post_attention"]
                .map(|part| format!("model.layers.{i}.{part}_layernorm.weight"))
        });
        matrices.chain(norms).chain(["model.norm.weight".to_owned()]).collect()
    }
}

fn options(embedding: Format) -> BaseOptions {
    BaseOptions { embedding, allow_missing_tokenizer: true, ..BaseOptions::default() }
}

#[test]
fn the_peak_is_below_the_result_and_two_tensors() {
    let _turn = TURN.lock();
    let source = Synthetic { config: CONFIG, damaged: "" };
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("base.lrk");
    let two_largest = 2 * CONFIG.vocab * CONFIG.dim * 4;
    for embedding in [Format::Int8, Format::Nf4, Format::F16] {
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let mut steps = 0;
        write_base(&source, &options(embedding), &output, &mut |_| steps += 1).unwrap();
        let peak = PEAK.load(Ordering::Relaxed) - before;
        let result = fs::metadata(&output).unwrap().len() as usize;
        println!("{embedding:?}: peak {peak}, result {result}, two tensors {two_largest}");
        assert_eq!(steps, source.names().len());
        assert!(
            peak < result + two_largest + (1 << 20),
            "{embedding:?}: peak {peak}, result {result}, two tensors {two_largest}"
        );
        // The whole model as f32 would not have fitted: the bound is one.
        let whole: usize = source
            .names()
            .iter()
            .map(|name| 4 * source.shape(name).unwrap().iter().product::<usize>())
            .sum();
        assert!(peak < whole / 2, "peak {peak}, the model as f32 {whole}");
        let archive = lowrank::archive::ArchiveFile::open(&output).unwrap();
        Llama::verify(&archive).unwrap();
    }
}

/// Small enough to be written once for every byte at which writing may fail.
const SMALL: Config = Config {
    vocab: 16,
    dim: 64,
    layers: 1,
    heads: 2,
    kv_heads: 1,
    head_dim: 32,
    hidden: 64,
    ..CONFIG
};

/// Takes `room` bytes, then nothing more.
struct Full {
    room: usize,
    written: usize,
    has_header: bool,
}

impl Output for Full {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len();
        if self.written > self.room { Err(Error::Write) } else { Ok(()) }
    }

    fn set_header(&mut self, _: &[u8; HEADER_LEN]) -> Result<(), Error> {
        self.has_header = true;
        Ok(())
    }
}

#[test]
fn a_full_output_never_gets_a_header() {
    let _turn = TURN.lock();
    let values: Vec<f32> = (0..64 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
    let matrix = |site: Site| {
        let (rows, cols) = site.shape(&SMALL);
        OwnedMatrix::quantize(Format::Nf4, 64, rows, cols, &values[..rows * cols]).unwrap()
    };
    let sites = [
        Site::Q(0),
        Site::K(0),
        Site::V(0),
        Site::O(0),
        Site::Gate(0),
        Site::Up(0),
        Site::Down(0),
        Site::Embedding,
    ];
    let matrices = sites.map(matrix);
    let linear = |i: usize| schema::Linear { weight: matrices[i].view().into(), bias: &[] };
    let norm = [1.0; 64];
    let [q, k, v, o, gate, up, down] = [0, 1, 2, 3, 4, 5, 6].map(linear);
    let layer = schema::LlamaLayer {
        attention_norm: &norm,
        q,
        k,
        v,
        o,
        q_norm: &[],
        k_norm: &[],
        feed_forward_norm: &norm,
        gate,
        up,
        down,
    };
    let root = schema::Llama {
        name: "small",
        config: SMALL.to_schema(),
        text: schema::Text::default(),
        embedding: matrices[7].view().into(),
        layers: &[layer],
        norm: &norm,
        head: None,
    };
    let whole = to_buffer(&root, 1).unwrap();
    Llama::verify(&whole).unwrap();
    for room in 0..=whole.len() {
        let mut output = Full { room, written: 0, has_header: false };
        let result = write(&root, 1, &mut output);
        assert_eq!(output.has_header, room == whole.len(), "{room}");
        match result {
            Ok(header) => assert_eq!((room, header), (whole.len(), Header::parse(&whole).unwrap())),
            Err(error) => assert_eq!(error, Error::Write, "{room}"),
        }
    }
}

#[test]
fn a_failed_import_leaves_no_file_and_keeps_an_old_one() {
    let _turn = TURN.lock();
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("base.lrk");
    let good = Synthetic { config: SMALL, damaged: "" };
    let files = || fs::read_dir(place.path()).unwrap().count();
    // Early, in the middle, last; matrices and a norm.
    let damaged = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ];
    for existing in [false, true] {
        if existing {
            write_base(&good, &options(Format::Int8), &output, &mut |_| {}).unwrap();
        }
        let before = fs::read(&output).ok();
        for damaged in damaged {
            let error = write_base(
                &Synthetic { config: SMALL, damaged },
                &options(Format::Int8),
                &output,
                &mut |_| {},
            )
            .unwrap_err();
            let error = error.to_string();
            assert!(error.contains(damaged) && error.contains("value 17 is NaN"), "{error}");
            assert_eq!(fs::read(&output).ok(), before);
            assert_eq!(files(), usize::from(existing));
        }
    }
    let written = fs::read(&output).unwrap();
    assert_eq!(written, *base_to_buffer(&good, &options(Format::Int8), &mut |_| {}).unwrap());
    // Nowhere to write: the error names the output.
    let nowhere = place.path().join("absent").join("base.lrk");
    let error =
        write_base(&good, &options(Format::Int8), &nowhere, &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains(nowhere.to_str().unwrap()) && error.contains("there is no folder"),
        "{error}"
    );
    let error = write_base(&good, &options(Format::Int8), place.path(), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains(place.path().to_str().unwrap()), "{error}");
    assert_eq!((files(), fs::read(&output).unwrap()), (1, written));
}

#[test]
fn shapes_that_are_too_large_for_memory_are_refused_before_they_are_made() {
    let _turn = TURN.lock();
    struct Liar(OwnedMatrix);
    impl Source for Liar {
        fn path(&self) -> &Path {
            Path::new("liar")
        }
        fn name(&self) -> String {
            String::new()
        }
        fn config(&self) -> Result<Config, FileError> {
            Ok(Config {
                dim: 1 << 17,
                vocab: 1 << 24,
                hidden: 1 << 20,
                heads: 4096,
                kv_heads: 4096,
                head_dim: 4096,
                ..CONFIG
            })
        }
        fn text(&self) -> Result<TextParts, FileError> {
            Ok(TextParts::default())
        }
        fn tensor(&self, _: &str) -> Result<Option<Tensor>, FileError> {
            Ok(Some(Tensor::Packed(self.0.clone())))
        }
        fn names(&self) -> Vec<String> {
            vec!["model.layers.0.self_attn.q_proj.weight".into()]
        }
    }
    let liar = Liar(OwnedMatrix::quantize(Format::Nf4, 64, 1, 64, &[1.0; 64]).unwrap());
    let error = base_to_buffer(&liar, &options(Format::F32), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("[1, 64]") && error.contains("[16777216, 131072]"), "{error}");
}
