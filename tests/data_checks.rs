//! What is wrong with data is found while it is scanned, with file, line and what was expected; what
//! is passed over is told: header rows, cut examples, labels with how often each is there.

use std::path::PathBuf;

use lowrank::text::{Message, TextError};
use lowrank::train::data::{
    DataOptions, Dataset, LONGEST_LINE, LONGEST_TEXT_LINE, MAX_LENGTH, ModelInput, Task, Tokenize,
};
use tempfile::TempDir;

/// A token per byte.
struct Bytes;

impl Tokenize for Bytes {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn render_chat(&self, messages: &[Message], _: bool) -> Result<String, TextError> {
        Ok(messages.iter().map(|message| message.content.as_str()).collect())
    }
}

fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    (directory, path)
}

fn open(
    name: &str,
    content: impl AsRef<[u8]>,
    task: Task,
    options: DataOptions,
) -> Result<Dataset<'static>, String> {
    let (_directory, path) = file(name, content);
    Dataset::open(&path, task, Some(&Bytes), options).map_err(|error| {
        let (error, path) = (error.to_string(), path.display().to_string());
        error.strip_prefix(&path).expect("the file is named").trim_start_matches(": ").to_owned()
    })
}

fn labels(name: &str, content: &str, options: DataOptions) -> (Vec<String>, usize, Option<u64>) {
    let data = open(name, content, Task::Classify, options).unwrap();
    (data.labels().to_vec(), data.len(), data.header())
}

fn plain() -> DataOptions {
    DataOptions::default()
}

#[test]
fn a_row_that_names_the_columns_is_no_example_whatever_its_case_and_name() {
    let rows = "good film\tpos\nbad film\tneg\nfine\tpos\n";
    for header in [
        "text\tlabel",
        "Text\tLabel",
        "TEXT\tLABELS",
        "review\tsentiment",
        "Review Text\tStar Rating",
        "sentence\tgold_label",
        "tweet\tisToxic",
        "comment\tUrteil",
        "\u{feff}text\tclass",
        "\n\nText\tCategory",
    ] {
        let content = format!("{header}\n{rows}");
        let (labels, examples, line) = labels("a.tsv", &content, plain());
        assert_eq!((labels, examples), (vec!["neg".to_owned(), "pos".into()], 3), "{header}");
        assert_eq!(line, Some(1 + header.matches('\n').count() as u64));
        // As validation data of a model with these labels too.
        let known = DataOptions { labels: Some(vec!["neg".into(), "pos".into()]), ..plain() };
        let data = open("a.tsv", &content, Task::Classify, known).unwrap();
        assert_eq!((data.len(), data.label_counts()), (3, &[1, 2][..]), "{header}");
    }
    let numbered = "Satz\tUrteil\ngut\t1\nschlecht\t0\n";
    assert_eq!(labels("a.tsv", numbered, plain()).0, ["0", "1"]);
    for (header, rows, examples) in [
        ("0,1,label", "1,2,yes\n3,4,no\n", 2),
        (",0,1,label", "0,1,2,yes\n1,3,4,no\n", 2),
        ("Height,Width,Kind", "1,2,yes\n3,4,no\n", 2),
        ("0,1,2", "1,2,yes\n3,4,no\n", 2),
        ("height,2020,Species", "1,2,yes\n3,4,no\n", 2),
        ("7,8,quality", "1,2,5\n3,4,6\n", 2),
    ] {
        let (labels, found, line) = labels("a.csv", &format!("{header}\n{rows}"), plain());
        assert_eq!((labels.len(), found, line), (2, examples, Some(1)), "{header}");
    }
}

#[test]
fn a_first_example_that_looks_like_no_header_stays_and_its_label_is_told() {
    let rows = "good film\tpos\nbad film\tneg\nfine\tpos\n";
    for (first, counts) in [
        ("I like this\tmixed", 3),
        ("red\tcolor", 3),
        ("text\tpos", 2),
        ("a label of some length that no column has\tlabel", 3),
    ] {
        let data = open("a.tsv", format!("{first}\n{rows}"), Task::Classify, plain()).unwrap();
        assert_eq!((data.labels().len(), data.len(), data.header()), (counts, 4, None), "{first}");
    }
    // A class called label is one if it is there twice.
    let twice = "text\tlabel\nx\tlabel\ny\tother\n";
    assert_eq!(labels("a.tsv", twice, plain()), (vec!["label".into(), "other".into()], 3, None));
    let data = open("a.tsv", format!("red\tcolor\n{rows}"), Task::Classify, plain()).unwrap();
    assert_eq!(data.summary(), "4 examples, 24 tokens, 3 labels: color 1, neg 1, pos 2");
    let data = open("a.csv", "0,1,label\n1,2,yes\n3,4,no\n5,6,no\n", Task::Classify, plain());
    let expected = "3 examples of 2 features, 2 labels: no 2, yes 1; line 1 names the columns";
    assert_eq!(data.unwrap().summary(), expected);
    let many: String = (0..30).map(|i| format!("x\tl{i}\n")).collect();
    let summary = open("a.tsv", many, Task::Classify, plain()).unwrap().summary();
    assert!(summary.contains("30 labels: l0 1, l1 1") && summary.ends_with("and 10 more"));
    let data = open("a.jsonl", "{\"text\": \"abc\"}", Task::LanguageModel, plain()).unwrap();
    assert_eq!((data.summary(), data.losses()), ("1 example, 3 tokens".into(), vec![]));
}

#[test]
fn what_is_cut_or_left_out_is_told() {
    let lines = "{\"text\": \"abcdef\"}\n{\"text\": \"ab\"}\n{\"text\": \"a\"}\n";
    let short = DataOptions { max_length: 4, ..plain() };
    let data = open("a.jsonl", lines, Task::LanguageModel, short.clone()).unwrap();
    assert_eq!(
        data.losses(),
        [
            "1 of 3 examples is longer than 4 tokens and was cut (--max-length)",
            "1 record was left out: nothing in it is scored"
        ]
    );
    let data = open("a.tsv", "abcdef\tx\nabcdefg\ty\n", Task::Classify, short).unwrap();
    let expected = "2 of 2 examples are longer than 4 tokens and were cut (--max-length)";
    assert_eq!(data.losses(), [expected]);
    assert_eq!(DataOptions::default().max_length, MAX_LENGTH);
}

#[test]
fn labels_of_several_lines_are_refused_with_their_line() {
    let json =
        "{\"text\": \"a\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"good\\nfilm\"}\n";
    let expected = "line 2: label \"good\\nfilm\" holds a line feed: a label is one line";
    assert_eq!(open("a.jsonl", json, Task::Classify, plain()).unwrap_err(), expected);
    let csv = "1,2,no\n3,4,\"ye\ns\"\n";
    let expected = "line 2: label \"ye\\ns\" holds a line feed: a label is one line";
    assert_eq!(open("a.csv", csv, Task::Classify, plain()).unwrap_err(), expected);
    let carriage = "{\"text\": \"a\", \"label\": \"x\\ry\"}";
    assert!(open("a.jsonl", carriage, Task::Classify, plain()).unwrap_err().contains("line feed"));
}

#[test]
fn keys_that_are_not_read_are_refused_with_the_nearest() {
    use Task::{Classify, LanguageModel};
    for (task, line, expected) in [
        (
            LanguageModel,
            "{\"text\": \"x\", \"txet\": \"y\"}",
            "line 1: unknown key \"txet\" beside \"text\": the nearest is \"text\"; take out what is \
             not to be learnt",
        ),
        (
            LanguageModel,
            "{\"text\": \"x\", \"label\": \"y\"}",
            "line 1: unknown key \"label\" beside \"text\": labels are learnt with the task classify",
        ),
        (
            LanguageModel,
            "{\"prompt\": \"x\", \"completion\": \"y\", \"text\": \"z\"}",
            "line 1: unknown key \"text\" beside \"prompt\" and \"completion\": it belongs to another \
             kind of record",
        ),
        (
            Classify,
            "{\"text\": \"x\", \"label\": \"y\", \"lable\": \"z\"}",
            "line 1: unknown key \"lable\" beside \"text\" and \"label\": the nearest is \"label\"; \
             take out what is not to be learnt",
        ),
        (
            LanguageModel,
            "{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"weight\": 0}]}",
            "line 1: message 1: unknown key \"weight\" beside \"role\" and \"content\": the nearest \
             is \"content\"; take out what is not to be learnt",
        ),
    ] {
        assert_eq!(open("a.jsonl", line, task, plain()).unwrap_err(), expected);
    }
    // Null says nothing: tables that became JSON are full of it.
    open("a.jsonl", "{\"text\": \"xy\", \"label\": null}", LanguageModel, plain()).unwrap();
}

#[test]
fn a_table_of_another_width_than_the_base_is_refused_with_its_line() {
    let input = |features| DataOptions {
        input: Some(ModelInput { context: 64, vocab: 256, features }),
        ..plain()
    };
    let table = "1,2,3,yes\n3,4,5,no\n";
    assert_eq!(
        open("a.csv", table, Task::Classify, input(2)).unwrap_err(),
        "line 1: 4 columns, 2 features and the label were expected: the model reads rows of 2 numbers"
    );
    open("a.csv", table, Task::Classify, input(3)).unwrap();
    let with_header = format!("a,b,c,label\n{table}");
    let error = open("a.csv", with_header, Task::Classify, input(2)).unwrap_err();
    assert!(error.starts_with("line 2: 4 columns"), "{error}");
    assert_eq!(
        open("a.csv", table, Task::Classify, input(0)).unwrap_err(),
        "the model reads text, and a .csv holds numbers: take .tsv or .jsonl"
    );
    assert_eq!(
        open("a.tsv", "x\t1\ny\t2\n", Task::Classify, input(1)).unwrap_err(),
        "the model reads rows of 1 number, not text: take a .csv"
    );
    let long = format!("{{\"text\": \"ab\"}}\n{{\"text\": \"{}\"}}\n", "x".repeat(65));
    assert_eq!(
        open("a.jsonl", long, Task::LanguageModel, input(0)).unwrap_err(),
        "line 2: 65 tokens, the model has positions for 64: ask for a max-length of at most that"
    );
}

#[test]
fn options_that_have_no_effect_on_the_data_are_refused() {
    use Task::{Classify, LanguageModel};
    let only = DataOptions { completions_only: true, ..plain() };
    let packing = DataOptions { packing: true, ..plain() };
    for (name, content, task, options, expected) in [
        ("a.txt", "abc", LanguageModel, &only, "completions-only has no effect on .txt"),
        ("a.tsv", "a\tx\nb\ty\n", Classify, &only, "completions-only has no effect on labels"),
        ("a.jsonl", "{\"text\": \"abc\"}", LanguageModel, &only, "no record has a prompt"),
        ("a.csv", "1,x\n2,y\n", Classify, &packing, "packing has no effect on .csv"),
    ] {
        let error = open(name, content, task, options.clone()).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
    // One record with a prompt is enough.
    let mixed = "{\"text\": \"abc\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}";
    open("a.jsonl", mixed, LanguageModel, only).unwrap();
}

/// Files as large as asked for that take no room on the disk.
#[cfg(unix)]
#[test]
fn lines_and_rows_without_an_end_are_refused_before_they_fill_the_memory() {
    let record = format!("is longer than {LONGEST_LINE} bytes (16 MiB)");
    let text = format!("is longer than {LONGEST_TEXT_LINE} bytes (256 MiB)");
    for (name, task, begin) in [
        ("a.jsonl", Task::LanguageModel, "{\"text\": \"abc\"}\n"),
        ("a.txt", Task::LanguageModel, "abc\n"),
        ("a.tsv", Task::Classify, "abc\tx\n"),
        ("a.csv", Task::Classify, "1,x\n"),
        ("b.csv", Task::Classify, "1,x\n\"2"),
    ] {
        let (_directory, path) = file(name, begin);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = Dataset::open(&path, task, Some(&Bytes), plain()).unwrap_err().to_string();
        let line = format!("line 2: the {}", if name.ends_with("csv") { "row" } else { "line" });
        let too_long = if name == "a.txt" { &text } else { &record };
        assert!(error.contains(&line) && error.contains(too_long), "{name}: {error}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_any_data() {
    let mark = "\u{feff}";
    for (name, task, content, rows) in [
        ("a.txt", Task::LanguageModel, "abcd", 4),
        ("a.jsonl", Task::LanguageModel, "{\"text\": \"abc\"}", 3),
        (
            "a.jsonl",
            Task::Classify,
            "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"y\"}",
            2,
        ),
        ("a.tsv", Task::Classify, "a\tx\nb\ty", 2),
        ("a.csv", Task::Classify, "1,x\n2,y", 2),
    ] {
        let (_directory, path) = file(name, format!("{mark}{content}"));
        let data = Dataset::open(&path, task, Some(&Bytes), plain()).unwrap();
        assert_eq!(data.rows(), rows, "{name}");
        let examples: Vec<u32> = (0..data.len() as u32).collect();
        data.batch(&examples).unwrap();
    }
}
