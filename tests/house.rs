//! CONTRIBUTING.md says how long files and functions are and which room may use which: this holds
//! the sources to it.

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 60;

/// A source file: its path below `src/`, its lines, and its text without comments and literals.
struct Source {
    name: String,
    lines: usize,
    code: Vec<char>,
}

fn sources() -> Vec<Source> {
    let root = root().join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    assert!(found.len() > 200, "the sources are looked at");
    found.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(path).unwrap();
        Source { name, lines: text.lines().count(), code: bare(&text) }
    };
    found.iter().map(read).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} of them:\n{}", violations.len(), violations.join("\n"));
}

/// The text with spaces for what stands in comments, strings and character literals; lines stay.
fn bare(text: &str) -> Vec<char> {
    let chars: Vec<char> = text.chars().collect();
    let mut code = Vec::with_capacity(chars.len());
    while code.len() < chars.len() {
        let at = code.len();
        let length = literal(&chars, at);
        let blank = chars[at..at + length].iter().map(|&c| if c == '\n' { c } else { ' ' });
        code.extend(blank);
        if length == 0 {
            code.push(chars[at]);
        }
    }
    code
}

/// The length of the comment or literal that begins at `at`; 0 if none does.
fn literal(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let is_inside_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(rest),
        ['"', ..] => quoted(rest, '"'),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest, '\''),
        ['r', '"' | '#', ..] if !is_inside_word || chars[at - 1] == 'b' => raw(rest),
        _ => 0,
    }
}

/// Up to the quote that ends it, escapes skipped.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += 1 + usize::from(rest[at] == '\\');
    }
    (at + 1).min(rest.len())
}

/// `r"…"`, `r#"…"#`; 0 for a raw name.
fn raw(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&c| c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut end = vec!['#'; hashes + 1];
    end[0] = '"';
    let body = 2 + hashes;
    let at = rest[body..].windows(end.len()).position(|window| window == end);
    at.map_or(rest.len(), |at| body + at + end.len())
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands as a word of its own.
fn words<'a>(code: &'a [char], word: &str) -> impl Iterator<Item = usize> + 'a {
    let word: Vec<char> = word.chars().collect();
    let is_at = move |&at: &usize| {
        code[at..].starts_with(&word)
            && (at == 0 || !is_word(code[at - 1]))
            && code.get(at + word.len()).is_none_or(|&c| !is_word(c))
    };
    (0..code.len()).filter(is_at)
}

/// The name of every function that has a body, and its lines from `fn` to the closing brace.
fn functions(code: &[char]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for start in words(code, "fn") {
        let name = start + 2 + code[start + 2..].iter().take_while(|c| c.is_whitespace()).count();
        // A type: fn(u32) -> u32.
        if code.get(name) == Some(&'(') {
            continue;
        }
        if let Some(end) = body_end(&code[name..]) {
            let lines = 1 + code[start..name + end].iter().filter(|&&c| c == '\n').count();
            let text = code[name..].iter().take_while(|&&c| is_word(c) || c == '$').collect();
            found.push((text, lines));
        }
    }
    found
}

/// Where the body of the function whose signature begins here ends; none if it has none.
fn body_end(code: &[char]) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.iter().enumerate() {
        match c {
            ';' if depth == 0 => return None,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The rooms that the code names: what follows `crate::`, also in braces.
fn named(code: &[char]) -> Vec<String> {
    let text: String = code.iter().filter(|c| !c.is_whitespace()).collect();
    let mut found = Vec::new();
    for (at, path) in text.match_indices("crate::") {
        let rest = &text[at + path.len()..];
        let list = rest.strip_prefix('{').map_or(vec![rest], |list| heads(list));
        let head = |part: &str| part.chars().take_while(|&c| is_word(c)).collect::<String>();
        found.extend(list.into_iter().map(head));
    }
    found
}

/// The parts of a list in braces, nested braces left whole.
fn heads(list: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    parts
}

/// The rooms from the lowest to the highest, as CONTRIBUTING.md lists them: the first word of each
/// line.
fn rooms() -> Vec<String> {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let list = text.split("```rooms\n").nth(1).expect("a list of rooms");
    let list = list.split("```").next().unwrap();
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The room of a file. A family's training and import stand with `train` and `import`.
fn room(name: &str) -> &str {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["model", _, "train" | "train.rs", ..] => "train",
        ["model", _, "import" | "import.rs", ..] => "import",
        _ => parts[0].trim_end_matches(".rs"),
    }
}

#[test]
fn files_fit_in_a_reader_s_head() {
    let long = sources().into_iter().filter(|source| source.lines > FILE_LINES);
    none(
        &long.map(|source| format!("{}: {} lines", source.name, source.lines)).collect::<Vec<_>>(),
    );
}

#[test]
fn functions_fit_on_a_screen() {
    let mut long = Vec::new();
    let mut count = 0;
    for source in sources() {
        for (name, lines) in functions(&source.code) {
            count += 1;
            if lines > FUNCTION_LINES {
                long.push(format!("{}: `{name}` has {lines} lines", source.name));
            }
        }
    }
    assert!(count > 2000, "only {count} functions were found");
    none(&long);
}

#[test]
fn imports_run_down_the_list_of_rooms() {
    let rooms = rooms();
    let rank = |room: &str| rooms.iter().position(|listed| listed == room);
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.name != "lib.rs") {
        let own = room(&source.name);
        let Some(height) = rank(own) else {
            wrong.push(format!("{}: `{own}` is not in the list of rooms", source.name));
            continue;
        };
        // The binary's `crate` is its own; it stands above everything.
        if own == "cli" {
            continue;
        }
        // Unit tests at the end of a file may use anything.
        let code: String = source.code.iter().collect();
        let code = code.split("\nmod tests").next().unwrap();
        for used in named(&code.chars().collect::<Vec<_>>()) {
            // What lib.rs itself offers, and this crate's macros.
            if used.starts_with(|c: char| c.is_uppercase()) || used.is_empty() {
                continue;
            }
            if rank(&used).is_none_or(|used| used > height) {
                wrong.push(format!("{}: uses `{used}`", source.name));
            }
        }
    }
    wrong.dedup();
    none(&wrong);
}

#[test]
fn the_counters_count() {
    let sample = r####"
        // fn comment() {
        /* fn block() { /* nested } */ */
        fn short() -> char { '{' }
        type F = fn(u32) -> u32;
        trait T { fn declared(&self) -> [u8; { 2 }]; }
        fn long<'a>(x: &'a str) -> String
        where
            F: Copy,
        {
            let text = "} \" }";
            let raw = r#"fn raw() { " "#;
            let r#fn = [b'}', b'\'', '"'];
            fn inner() {
            }
            format!("{text}{raw}{x}")
        }
    "####;
    let count = |name: &str, lines: usize| (name.to_owned(), lines);
    let expected = [count("short", 1), count("long", 11), count("inner", 2)];
    assert_eq!(functions(&bare(sample)), expected);

    let uses = "use crate::nn::{self, A}; use crate::{quant::B, text::{C, D}, E}; // crate::no";
    assert_eq!(named(&bare(uses)), ["nn", "quant", "text", "E"]);
    assert_eq!(room("model/bert/train.rs"), "train");
    assert_eq!(room("model/bert/forward.rs"), "model");
    assert_eq!(room("error.rs"), "error");
}
