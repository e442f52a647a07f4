//! Training data: what each format becomes, every example once an epoch, targets shifted by one,
//! and errors that name the line.

use std::path::PathBuf;

use lowrank::text::{Message, TextError};
use lowrank::train::data::{
    Batch, DataOptions, Dataset, Example, IGNORE, Inputs, ModelInput, Targets, Task, Tokenize,
};
use proptest::prelude::*;
use tempfile::TempDir;

const BEGIN: u32 = 256;
const END: u32 = 257;

/// A token for each byte; conversations are `<role>content|`, a generation prompt `<assistant>`.
/// `~` merges with what follows it.
#[derive(Default)]
struct Bytes {
    begin: Option<u32>,
    close: Option<u32>,
    vocabulary: Option<u32>,
    /// Does the template trim all turns but the last?
    forgets: bool,
}

impl Tokenize for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let (mut ids, mut bytes) = (Vec::new(), text.bytes().peekable());
        while let Some(byte) = bytes.next() {
            ids.push(if byte == b'~' {
                1000 + bytes.next().map_or(0, u32::from)
            } else {
                u32::from(byte)
            });
        }
        Ok(ids)
    }

    fn begin(&self) -> Option<u32> {
        self.begin
    }

    fn end(&self) -> Option<u32> {
        Some(END)
    }

    fn close(&self) -> Option<u32> {
        self.close
    }

    fn is_stop(&self, token: u32) -> bool {
        token == u32::from(b'|')
    }

    fn vocabulary(&self) -> Option<u32> {
        self.vocabulary
    }

    fn render_chat(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let last = messages.len().saturating_sub(1);
        let turn = |(i, m): (usize, &Message)| {
            let content = if self.forgets && i < last { "" } else { m.content.as_str() };
            format!("<{}>{content}|\n", m.role)
        };
        let mut text: String = messages.iter().enumerate().map(turn).collect();
        if add_generation_prompt {
            text.push_str("<assistant>");
        }
        Ok(text)
    }
}

const PLAIN: Bytes = Bytes { begin: None, close: None, vocabulary: None, forgets: false };
const WITH_BEGIN: Bytes = Bytes { begin: Some(BEGIN), ..PLAIN };

fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

fn options(max_length: usize) -> DataOptions {
    DataOptions { max_length, ..DataOptions::default() }
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// Tokens and targets of each sequence.
fn sequences(batch: &Batch) -> Vec<(Vec<u32>, Vec<u32>)> {
    let (Inputs::Tokens(tokens), Targets::Next(next)) = (&batch.inputs, &batch.targets) else {
        panic!("{batch:?}")
    };
    assert_eq!(tokens.len(), next.len());
    assert_eq!((batch.starts[0], batch.starts[batch.starts.len() - 1]), (0, tokens.len()));
    let sequence =
        |pair: &[usize]| (tokens[pair[0]..pair[1]].to_vec(), next[pair[0]..pair[1]].to_vec());
    batch.starts.windows(2).map(sequence).collect()
}

/// The scored tokens of a sequence as text, `.` for tokens that are not, the end as `$`, the begin
/// as `^`.
fn shown((tokens, next): &(Vec<u32>, Vec<u32>)) -> (String, String) {
    let show = |id: u32| match id {
        END => '$',
        BEGIN => '^',
        id => char::from(u8::try_from(id).unwrap()),
    };
    let scored = std::iter::once(&IGNORE).chain(&next[..next.len() - 1]);
    assert_eq!(next[next.len() - 1], IGNORE);
    for (target, &token) in scored.clone().zip(tokens) {
        assert!(*target == IGNORE || *target == token, "targets are the tokens shifted by one");
    }
    let scored = scored.map(|&id| if id == IGNORE { '.' } else { show(id) });
    (tokens.iter().map(|&id| show(id)).collect(), scored.collect())
}

/// All examples of a language model's file, in order.
fn all(
    name: &str,
    content: &str,
    tokenizer: &Bytes,
    options: DataOptions,
) -> Vec<(String, String)> {
    let (_directory, path) = file(name, content);
    let dataset = Dataset::open(&path, Task::LanguageModel, Some(tokenizer), options).unwrap();
    let examples: Vec<u32> = (0..dataset.len() as u32).collect();
    let batch = dataset.batch(&examples).unwrap();
    sequences(&batch).iter().map(shown).collect()
}

fn pair(tokens: &str, scored: &str) -> (String, String) {
    (tokens.into(), scored.into())
}

#[test]
fn text_is_cut_into_windows_that_cover_it() {
    assert_eq!(
        all("a.txt", "hello\nworld", &PLAIN, options(5)),
        [pair("hello", ".ello"), pair("\nworl", ".worl"), pair("d$", ".$")]
    );
    let begun = [pair("^hell", ".hell"), pair("^o\nwo", ".o\nwo"), pair("^rld$", ".rld$")];
    assert_eq!(all("a.txt", "hello\nworld", &WITH_BEGIN, options(5)), begun);
    // A byte order mark is no text; one token alone predicts nothing.
    assert_eq!(all("a.txt", "\u{feff}abcd", &PLAIN, options(4)), [pair("abcd", ".bcd")]);
}

#[test]
fn long_text_loses_no_token() {
    let text: String = (0..40_000).map(|i| format!("line {i}\r\n")).collect();
    let (_directory, path) = file("long.txt", &text);
    let dataset = Dataset::open(&path, Task::LanguageModel, Some(&PLAIN), options(1000)).unwrap();
    let examples: Vec<u32> = (0..dataset.len() as u32).collect();
    let Inputs::Tokens(tokens) = dataset.batch(&examples).unwrap().inputs else { panic!() };
    let mut expected = ids(&text);
    expected.push(END);
    assert!(tokens == expected, "{} {}", tokens.len(), expected.len());
    assert_eq!((dataset.rows(), dataset.longest()), (expected.len() as u64, 1000));
}

#[test]
fn lines_of_json_end_with_the_end_token() {
    let lines = "{\"text\": \"one\"}\r\n\n{\"text\": \"x\", \"other\": null}\n{\"prompt\": \"2+2=\", \"completion\": \"4\"}";
    let expected = [pair("^one$", ".one$"), pair("^x$", ".x$"), pair("^2+2=4$", ".2+2=4$")];
    assert_eq!(all("a.jsonl", lines, &WITH_BEGIN, options(20)), expected);
    assert_eq!(all("a.jsonl", "{\"text\": \"one\"}", &PLAIN, options(20)), [pair("one$", ".ne$")]);
}

#[test]
fn of_prompts_nothing_is_scored_where_only_completions_are() {
    let only = DataOptions { completions_only: true, ..options(20) };
    let line = r#"{"prompt": "2+2=", "completion": "4"}"#;
    assert_eq!(all("a.jsonl", line, &WITH_BEGIN, only.clone()), [pair("^2+2=4$", ".....4$")]);
    assert_eq!(all("a.jsonl", line, &PLAIN, only.clone()), [pair("2+2=4$", "....4$")]);
    // A text has no prompt; an empty prompt is none; the first token is never scored.
    let both = format!("{{\"text\": \"one\"}}\n{line}");
    assert_eq!(
        all("a.jsonl", &both, &PLAIN, only.clone()),
        [pair("one$", ".ne$"), pair("2+2=4$", "....4$")]
    );
    assert_eq!(
        all("a.jsonl", r#"{"prompt": "", "completion": "one"}"#, &WITH_BEGIN, only),
        [pair("^one$", ".one$")]
    );
}

#[test]
fn a_prompt_is_encoded_as_inference_encodes_it() {
    // Together "~" and "x" would be one token, which no prompt ends with.
    let (_directory, path) = file("a.jsonl", r#"{"prompt": "a~", "completion": "xy"}"#);
    let only = DataOptions { completions_only: true, ..options(20) };
    let dataset = Dataset::open(&path, Task::LanguageModel, Some(&PLAIN), only).unwrap();
    let found = sequences(&dataset.batch(&[0]).unwrap());
    let [a, x, y] = [b'a', b'x', b'y'].map(u32::from);
    assert_eq!(found, [(vec![a, 1000, x, y, END], vec![IGNORE, x, y, END, IGNORE])]);
}

const CHAT: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"},
 {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}, {"role": "user", "content": "f"}]}"#;

#[test]
fn of_a_conversation_the_turns_of_the_assistant_are_scored_with_their_end() {
    let line = CHAT.replace('\n', "");
    let text = "^<user>a|\n<assistant>bc|\n<user>d|\n<assistant>e|\n<user>f|\n";
    let only = DataOptions { completions_only: true, ..options(100) };
    let found = all("a.jsonl", &line, &WITH_BEGIN, only);
    let dots = |text: &str| ".".repeat(text.len());
    let scored = [
        &dots("^<user>a|\n<assistant>"),
        "bc|",
        &dots("\n<user>d|\n<assistant>"),
        "e|",
        &dots("\n<user>f|\n"),
    ]
    .concat();
    assert_eq!(found, [(text.to_owned(), scored)]);
    assert_eq!(
        all("a.jsonl", &line, &WITH_BEGIN, options(100)),
        [(text.to_owned(), text.replace('^', "."))]
    );
}

#[test]
fn long_examples_are_cut_and_counted_and_those_without_a_scored_token_left_out() {
    let line = |(prompt, completion)| {
        format!("{{\"prompt\": \"{prompt}\", \"completion\": \"{completion}\"}}\n")
    };
    let lines: String = [("abc", "defgh"), ("abcdef", "x"), ("a", "b")].map(line).concat();
    let (_directory, path) = file("a.jsonl", lines);
    let only = DataOptions { completions_only: true, ..options(6) };
    let dataset = Dataset::open(&path, Task::LanguageModel, Some(&PLAIN), only).unwrap();
    assert_eq!((dataset.len(), dataset.truncated(), dataset.skipped()), (2, 2, 1));
    let found: Vec<_> = sequences(&dataset.batch(&[1, 0]).unwrap()).iter().map(shown).collect();
    assert_eq!(found, [pair("ab$", ".b$"), pair("abcdef", "...def")]);
}

fn classes(dataset: &Dataset<'_>, examples: &[u32]) -> (Inputs, Vec<usize>, Vec<u32>) {
    let batch = dataset.batch(examples).unwrap();
    let Targets::Class(classes) = batch.targets else { panic!() };
    (batch.inputs, batch.starts, classes)
}

#[test]
fn labels_are_sorted_and_a_validation_file_uses_the_training_files() {
    let framed = Bytes { begin: Some(BEGIN), close: Some(END), ..PLAIN };
    let (_directory, path) =
        file("a.tsv", "sentence\tlabel\ngood film\tpositive\r\n\nbad\tnegative\nfine\tpositive");
    let dataset = Dataset::open(&path, Task::Classify, Some(&framed), options(6)).unwrap();
    assert_eq!(dataset.labels(), ["negative", "positive"]);
    assert_eq!((dataset.len(), dataset.truncated()), (3, 1));
    let (inputs, starts, found) = classes(&dataset, &[1, 0]);
    assert_eq!(
        inputs,
        Inputs::Tokens(
            [vec![BEGIN], ids("bad"), vec![END, BEGIN], ids("good"), vec![END]].concat()
        )
    );
    assert_eq!((starts, found), (vec![0, 5, 11], vec![0, 1]));

    let labels = Some(dataset.labels().to_vec());
    let (_directory, path) = file("b.jsonl", "{\"text\": \"x\", \"label\": \"positive\"}");
    let validation =
        Dataset::open(&path, Task::Classify, Some(&framed), DataOptions { labels, ..options(6) })
            .unwrap();
    assert_eq!((validation.labels(), classes(&validation, &[0]).2), (dataset.labels(), vec![1]));

    let (_directory, path) =
        file("c.jsonl", "{\"text\": \"x\", \"label\": 10}\n{\"text\": \"y\", \"label\": 9}");
    let numbers = Dataset::open(&path, Task::Classify, Some(&framed), options(6)).unwrap();
    assert_eq!(
        (numbers.labels(), classes(&numbers, &[0, 1]).2),
        (&["9".to_owned(), "10".to_owned()][..], vec![1, 0])
    );
}

#[test]
fn rows_of_features_need_no_tokenizer() {
    for header in ["", "\u{feff}", "height,width,kind\n"] {
        let (_directory, path) = file(
            "a.csv",
            format!("{header}1.5,-2,cat\n\n\"3\", 4e-1 ,\"d \"\"og\"\"\"\r\n5,6,cat"),
        );
        let dataset = Dataset::open(&path, Task::Classify, None, options(1)).unwrap();
        assert_eq!(
            (dataset.len(), dataset.width(), dataset.labels()),
            (3, 2, &["cat".to_owned(), "d \"og\"".to_owned()][..])
        );
        let (inputs, starts, found) = classes(&dataset, &[2, 1, 0]);
        assert_eq!(
            inputs,
            Inputs::Features { values: vec![5.0, 6.0, 3.0, 0.4, 1.5, -2.0], width: 2 }
        );
        assert_eq!((starts, found), (vec![0, 1, 2, 3], vec![0, 1, 0]));
        assert_eq!(dataset.plan_in_order(2), [vec![0, 1], vec![2]]);
    }
}

fn error(
    name: &str,
    task: Task,
    content: &[u8],
    tokenizer: Option<&Bytes>,
    options: DataOptions,
) -> String {
    let (_directory, path) = file(name, content);
    let tokenizer = tokenizer.map(|tokenizer| tokenizer as &dyn Tokenize);
    let error = Dataset::open(&path, task, tokenizer, options).unwrap_err().to_string();
    error.strip_prefix(path.to_str().unwrap()).unwrap().strip_prefix(": ").unwrap().to_owned()
}

#[test]
fn errors_in_lines_of_json_name_the_line_and_what_was_expected() {
    let (two, no_column) =
        ("{\"role\": \"user\", \"content\": \"x\"}", "a JSON object was expected, {\"text\": …}");
    for (line, expected) in [
        ("{\"text\": \"x\"", "not JSON: EOF while parsing an object (column 12)"),
        ("[1]", no_column),
        (
            "{\"txt\": 1, \"id\": 1}",
            "\"text\", \"prompt\" and \"completion\", or \"messages\" was expected, found \"txt\", \"id\"",
        ),
        (
            "{}",
            "\"text\", \"prompt\" and \"completion\", or \"messages\" was expected, found no key",
        ),
        ("{\"text\": 1}", "\"text\" is a number, a string was expected"),
        ("{\"text\": \"\"}", "\"text\" is empty"),
        ("{\"prompt\": \"x\"}", "\"completion\" is missing, found \"prompt\""),
        (
            "{\"prompt\": \"x\", \"completion\": \"\"}",
            "\"completion\" is empty: there is nothing to learn",
        ),
        (
            "{\"messages\": []}",
            "\"messages\" is no list of messages, [{\"role\": …, \"content\": …}, …] was expected",
        ),
        (
            &format!("{{\"messages\": [{two}, {{\"content\": \"x\"}}]}}"),
            "message 2 has no string \"role\"",
        ),
    ] {
        let content = format!("{{\"text\": \"x\"}}\r\n\n{line}\n");
        let found =
            error("a.jsonl", Task::LanguageModel, content.as_bytes(), Some(&PLAIN), options(9));
        assert_eq!(found, format!("line 3: {expected}"));
    }
    for (line, expected) in [
        (
            "{\"text\": \"x\", \"label\": 0.5}",
            "line 1: \"label\" is a number, a string or a whole number was expected",
        ),
        ("{\"text\": \"x\"}", "line 1: \"label\" is missing, found \"text\""),
    ] {
        assert_eq!(
            error("a.jsonl", Task::Classify, line.as_bytes(), Some(&PLAIN), options(9)),
            expected
        );
    }
}

#[test]
fn errors_in_conversations_and_tokens_name_the_line() {
    let only = || DataOptions { completions_only: true, ..options(100) };
    let lm = |content: &[u8], tokenizer: &Bytes, options| {
        error("a.jsonl", Task::LanguageModel, content, Some(tokenizer), options)
    };
    let found = lm(b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", &PLAIN, only());
    assert_eq!(
        found,
        "line 1: the conversation has no turn of the assistant, and only those are scored"
    );
    let found = lm(CHAT.replace('\n', "").as_bytes(), &Bytes { forgets: true, ..PLAIN }, only());
    assert!(
        found.starts_with(
            "line 1: the chat template changes what comes before message 2, so its tokens"
        ),
        "{found}"
    );
    let found = lm(
        "{\"text\": \"a\"}\n{\"text\": \"é\"}".as_bytes(),
        &Bytes { vocabulary: Some(128), ..PLAIN },
        only(),
    );
    assert_eq!(found, "line 2: the tokenizer gives token 195, the model's vocabulary has 128");
    let found = lm(b"{\"text\": \"x\"}\n{\"text\": \"\xff\"}", &PLAIN, only());
    assert_eq!(found, "line 2: not UTF-8: byte 11 of the line is 0xff");
    let filled = b"{\"prompt\": \"abcdef\", \"completion\": \"x\"}";
    let found = lm(filled, &PLAIN, DataOptions { completions_only: true, ..options(6) });
    assert_eq!(
        found,
        "nothing is scored in any of its 1 records: prompts fill the longest sequence"
    );
    let found = error("a.txt", Task::LanguageModel, b"a\nb\xc3", Some(&PLAIN), options(9));
    assert_eq!(found, "line 2: not UTF-8: byte 2 of the line is 0xc3");
}

#[test]
fn errors_in_tables_name_the_line_and_the_column() {
    let cases: [(&str, &[u8], &str); 14] = [
        ("a.tsv", b"x\t1\ny 1", "line 2: no tab: text<TAB>label was expected"),
        ("a.tsv", b"x\ty\t1", "line 1: 2 tabs, 1 was expected: text<TAB>label"),
        ("a.tsv", b"x\t1\n \t1", "line 2: the text of label \"1\" is empty"),
        ("a.tsv", b"x\t1\ny\t ", "line 2: the label is empty"),
        ("a.tsv", b"x\t1\ny\t1", "every example has the label \"1\": a classifier needs two"),
        ("a.csv", b"1,2,x\n1,b,y", "line 2: column 2 is \"b\", a number was expected"),
        ("a.csv", b"1,b,x\n", "line 1: column 2 is \"b\", a number was expected"),
        ("a.csv", b"1,2,x\n\n1,inf,y", "line 3: column 2 is \"inf\", which is not finite in f32"),
        (
            "a.csv",
            b"a,b\r\n\"1\r\n\",x\r\n\r\n1,y\r\nz,y",
            "line 6: column 1 is \"z\", a number was expected",
        ),
        ("a.csv", b"a,b,c\n1,2,x\n1,y", "line 3: 2 columns, the first row has 3"),
        ("a.csv", b"x\ny", "line 1: 1 column: features and, last, a label were expected"),
        ("a.csv", b"1,x\n2,", "line 2: column 2 is empty, the label was expected"),
        ("a.csv", b"1,x\n2,\xff", "line 2: column 2 is not UTF-8"),
        ("a.csv", b"a,b", "the file holds no example"),
    ];
    for (name, content, expected) in cases {
        assert_eq!(error(name, Task::Classify, content, Some(&PLAIN), options(9)), expected);
    }
    let trained = DataOptions { labels: Some(vec!["0".into(), "1".into()]), ..options(100) };
    let found = error("a.tsv", Task::Classify, b"x\t1\ny\t2", Some(&PLAIN), trained);
    assert_eq!(found, "line 2: label \"2\" is not one of the training data's 2: 0, 1");
}

#[test]
fn errors_about_whole_files_say_what_would_do() {
    use Task::{Classify, LanguageModel};
    for (name, task, content, expected) in [
        ("a.txt", LanguageModel, "", "the file holds no example"),
        ("a.jsonl", LanguageModel, "\n \n", "the file holds no example"),
        (
            "a.csv",
            LanguageModel,
            "1,x",
            "a language model learns from .txt or .jsonl, not from \"csv\"",
        ),
        (
            "a.TXT",
            Classify,
            "1,x",
            "a classifier learns from .tsv, .jsonl or .csv, not from \"txt\"",
        ),
        ("a", Classify, "1,x", "a classifier learns from .tsv, .jsonl or .csv, not from \"\""),
    ] {
        assert_eq!(
            error(name, task, content.as_bytes(), Some(&PLAIN), options(9)),
            expected,
            "{name}"
        );
    }
    let found = error("a.txt", LanguageModel, b"ab", Some(&PLAIN), options(1));
    assert_eq!(found, "sequences of at most 1 tokens hold nothing to learn: at least 2 are needed");
    let found = error("a.txt", LanguageModel, b"ab", None, options(9));
    assert_eq!(found, "the model has no tokenizer, so text cannot be its input");
    let missing = tempfile::tempdir().unwrap().path().join("b.txt");
    let found =
        Dataset::open(&missing, LanguageModel, Some(&PLAIN), options(9)).unwrap_err().to_string();
    assert!(found.starts_with(missing.to_str().unwrap()), "{found}");
}

#[test]
fn a_file_that_changed_is_noticed() {
    let framed = Bytes { begin: Some(BEGIN), ..PLAIN };
    for (name, task, before, after) in [
        (
            "a.jsonl",
            Task::LanguageModel,
            "{\"text\": \"one\"}\n{\"text\": \"two\"}",
            "{\"text\": \"one\"}\n{\"text\": \"t\"}",
        ),
        (
            "a.jsonl",
            Task::LanguageModel,
            "{\"text\": \"one\"}\n{\"text\": \"two\"}",
            "{\"text\": \"one\"}\n{\"text\": \"t\"}    ",
        ),
        ("a.tsv", Task::Classify, "a\t1\nb\t2", "a\t1\nb  2"),
        ("a.csv", Task::Classify, "1,a\n2,b", "1,a\nx,b"),
    ] {
        let (_directory, path) = file(name, before);
        let dataset = Dataset::open(&path, task, Some(&framed), options(9)).unwrap();
        dataset.batch(&[0, 1]).unwrap();
        std::fs::write(&path, after).unwrap();
        dataset.batch(&[0]).unwrap();
        let error = dataset.batch(&[1]).unwrap_err().to_string();
        assert!(
            error
                .ends_with("line 2: the file has changed since it was opened; start the run again"),
            "{error}"
        );
        let error = dataset.batch(&[2]).unwrap_err().to_string();
        assert!(error.ends_with("there is no example 2: the file has 2"), "{error}");
    }
}

#[test]
fn packed_batches_hold_as_many_tokens_as_fit() {
    let lines: String =
        (0..100).map(|i| format!("{{\"text\": \"{}\"}}\n", "x".repeat(1 + i % 7))).collect();
    let (_directory, path) = file("a.jsonl", lines);
    let packed = DataOptions { packing: true, ..options(20) };
    let dataset = Dataset::open(&path, Task::LanguageModel, Some(&PLAIN), packed).unwrap();
    let plan = dataset.plan(2, 1, 0, false);
    let rows =
        |batch: &Vec<u32>| batch.iter().map(|&example| dataset.length(example)).sum::<usize>();
    assert!(plan.iter().all(|batch| rows(batch) <= 40));
    assert!(plan[..plan.len() - 1].iter().all(|batch| rows(batch) > 40 - 8 && batch.len() > 2));
    let batch = dataset.batch(&plan[0]).unwrap();
    assert_eq!(batch.starts.len(), plan[0].len() + 1);
}

proptest! {
    #[test]
    fn an_epoch_is_every_example_once_with_its_own_tokens(
        texts in prop::collection::vec("[a-z]{1,30}", 2..60), size in 1usize..9, seed: u64, epoch in 0u64..4, sort: bool, packing: bool,
        begin: bool
    ) {
        let tokenizer = if begin { WITH_BEGIN } else { PLAIN };
        let lines: String = texts.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
        let (_directory, path) = file("a.jsonl", lines);
        let dataset = Dataset::open(&path, Task::LanguageModel, Some(&tokenizer), DataOptions { packing, ..options(16) }).unwrap();
        let plan = dataset.plan(size, seed, epoch, sort);
        prop_assert_eq!(&plan, &dataset.plan(size, seed, epoch, sort));
        let mut seen = plan.concat();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..texts.len() as u32).collect::<Vec<_>>());
        for examples in &plan {
            let batch = dataset.batch(examples).unwrap();
            prop_assert!(batch.starts.is_sorted_by(|a, b| a < b));
            let found = sequences(&batch);
            prop_assert_eq!(found.len(), examples.len());
            for (&example, (tokens, next)) in examples.iter().zip(&found) {
                let mut expected: Vec<u32> = tokenizer.begin.into_iter().chain(ids(&texts[example as usize])).chain([END]).collect();
                expected.truncate(16);
                prop_assert_eq!(tokens.len(), dataset.length(example));
                prop_assert_eq!(&next[..next.len() - 1], &expected[1..]);
                prop_assert_eq!(tokens, &expected);
            }
        }
    }
}

/// Files, and the examples that they hold.
fn files_and_examples() -> [(&'static str, &'static str, Task, Vec<Example>); 4] {
    let labelled =
        |text: &str, label: &str| Example::Labelled { text: text.into(), label: label.into() };
    let features = |values: [f32; 2], label: &str| Example::Features {
        values: values.to_vec(),
        label: label.into(),
    };
    let message =
        |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    [
        (
            "a.jsonl",
            concat!(
                r#"{"text": "a text"}"#,
                "\n",
                r#"{"prompt": "ask", "completion": "answer"}"#,
                "\n",
                r#"{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}"#,
            ),
            Task::LanguageModel,
            vec![
                Example::Text("a text".into()),
                Example::Completion { prompt: "ask".into(), completion: "answer".into() },
                Example::Chat(vec![message("user", "x"), message("assistant", "y")]),
            ],
        ),
        (
            "b.jsonl",
            concat!(
                r#"{"text": "good", "label": "up"}"#,
                "\n",
                r#"{"text": "bad", "label": "down"}"#
            ),
            Task::Classify,
            vec![labelled("good", "up"), labelled("bad", "down")],
        ),
        (
            "c.tsv",
            "good thing\t10\nbad thing\t9\nso so\t10\n",
            Task::Classify,
            vec![
                labelled("good thing", " 10"),
                labelled("bad thing", "9"),
                labelled("so so", "10"),
            ],
        ),
        (
            "d.csv",
            "1,2.5,x\n-3,4,y\n",
            Task::Classify,
            vec![features([1.0, 2.5], "x"), features([-3.0, 4.0], "y")],
        ),
    ]
}

#[test]
fn examples_in_memory_are_read_as_those_of_files() {
    for (name, content, task, examples) in files_and_examples() {
        let (_directory, path) = file(name, content);
        let options = || options(9);
        let read = Dataset::open(&path, task, Some(&WITH_BEGIN), options()).unwrap();
        let held = Dataset::from_examples(examples, task, Some(&WITH_BEGIN), options()).unwrap();
        assert_eq!((held.name().as_str(), held.path()), ("examples", None));
        assert_eq!(held.summary(), read.summary());
        assert_eq!(held.losses(), read.losses());
        assert_eq!(held.labels(), read.labels());
        let order: Vec<u32> = (0..read.len() as u32).rev().collect();
        assert_eq!(held.batch(&order).unwrap(), read.batch(&order).unwrap(), "{name}");
        assert_eq!(held.plan(2, 3, 1, true), read.plan(2, 3, 1, true));
    }
}

#[test]
fn token_ids_are_taken_as_they_are_without_a_tokenizer() {
    let tokens = [vec![7, 8, 9], vec![1, 2, 3, 4, 5, 6]].map(Example::Tokens);
    let data = Dataset::from_examples(tokens, Task::LanguageModel, None, options(5)).unwrap();
    assert_eq!(data.truncated(), 1);
    let found = sequences(&data.batch(&[1, 0]).unwrap());
    let expected =
        [(vec![1, 2, 3, 4, 5], vec![2, 3, 4, 5, IGNORE]), (vec![7, 8, 9], vec![8, 9, IGNORE])];
    assert_eq!(found, expected);
    let labelled = [(vec![3, 4], "no"), (vec![5], "yes"), (vec![6, 7], "no")]
        .map(|(tokens, label)| Example::LabelledTokens { tokens, label: label.into() });
    let data = Dataset::from_examples(labelled, Task::Classify, None, options(5)).unwrap();
    assert_eq!(data.label_counts(), [2, 1]);
    let batch = data.batch(&[0, 1]).unwrap();
    assert_eq!(batch.inputs, Inputs::Tokens(vec![3, 4, 5]));
    assert_eq!(batch.targets, Targets::Class(vec![0, 1]));
}

#[test]
fn an_example_that_cannot_be_learnt_is_named_by_its_number() {
    let text = |text: &str| Example::Text(text.into());
    let labelled =
        |text: &str, label: &str| Example::Labelled { text: text.into(), label: label.into() };
    let features =
        |values: &[f32]| Example::Features { values: values.to_vec(), label: "x".into() };
    let tokens = |tokens: &[u32]| Example::Tokens(tokens.to_vec());
    let (lm, classify) = (Task::LanguageModel, Task::Classify);
    let reads = |vocab, features| DataOptions {
        input: Some(ModelInput { context: 8, vocab, features }),
        ..options(8)
    };
    let cases: [(Vec<Example>, Task, DataOptions, &str); 16] = [
        (vec![], lm, options(8), "examples: there is no example"),
        (vec![text("a b"), text("")], lm, options(8), "number 2: \"text\" is empty"),
        (vec![tokens(&[])], lm, options(8), "number 1: \"tokens\" has no token"),
        (vec![Example::Chat(vec![])], lm, options(8), "number 1: \"messages\" has no message"),
        (
            vec![Example::Completion { prompt: "x".into(), completion: String::new() }],
            lm,
            options(8),
            "number 1: \"completion\" is empty: there is nothing to learn",
        ),
        (
            vec![labelled("a", "b")],
            lm,
            options(8),
            "number 1: it has the label \"b\": labels are learnt with the task classify",
        ),
        (
            vec![text("a")],
            classify,
            options(8),
            "number 1: it has no label: a classifier needs one",
        ),
        (vec![labelled("a", "b\nc")], classify, options(8), "holds a line feed"),
        (vec![labelled(" ", "b")], classify, options(8), "the text of label \"b\" is empty"),
        (vec![labelled("a", " ")], classify, options(8), "the label is empty"),
        (
            vec![labelled("a", "b"), labelled("c", "b")],
            classify,
            options(8),
            "every example has the label \"b\": a classifier needs two",
        ),
        (
            vec![features(&[1.0]), features(&[1.0, f32::NAN])],
            classify,
            options(8),
            "number 2: feature 2 is NaN, not finite",
        ),
        (
            vec![features(&[1.0]), features(&[1.0, 2.0])],
            classify,
            options(8),
            "number 2: 2 features, the first example has 1",
        ),
        (
            vec![features(&[1.0])],
            classify,
            reads(0, 3),
            "number 1: 1 features, the model reads rows of 3 numbers",
        ),
        (
            vec![labelled("a", "b")],
            classify,
            reads(0, 3),
            "the model reads rows of 3 numbers, not text: take rows of features",
        ),
        (
            vec![tokens(&[3, 4]), tokens(&[3, 40])],
            lm,
            reads(40, 0),
            "number 2: token 40, the model's vocabulary has 40",
        ),
    ];
    for (examples, task, options, expected) in cases {
        let found = Dataset::from_examples(examples, task, Some(&PLAIN), options).unwrap_err();
        assert!(found.to_string().contains(expected), "{found}\n{expected}");
    }
    let without = Dataset::from_examples([text("a")], lm, None, options(8)).unwrap_err();
    assert!(without.to_string().contains("the model has no tokenizer"), "{without}");
}
