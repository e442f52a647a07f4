//! `lowrank tokenize`: text to the token ids that the base's model reads, with what stands around
//! every text. Special tokens in it are parsed. Nothing is cut.

use std::io::{BufReader, Write};
use std::path::PathBuf;

use clap::Args;
use lowrank::file::{FileError, LINE, Lines, open};
use lowrank::text::without_mark;
use serde_json::{Value, json};

use crate::Failure;
use crate::files::File;
use crate::output::of_stdout;

const EXAMPLES: &str = r#"Examples:
  lowrank tokenize --base base.lrk "Once upon a time"
  lowrank tokenize --base base.lrk --no-special-tokens "Once upon a time"
  lowrank tokenize --base base.lrk --file texts.jsonl > ids.jsonl"#;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The base archive
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// The text
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    text: Option<String>,
    /// JSON lines {"text": …}; the output is one {"ids": […]} a line
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print {"ids": […]} for TEXT too
    #[arg(long)]
    json: bool,
    /// Leave out what is put around every text: the begin-of-sequence token, [CLS] and [SEP]
    #[arg(long)]
    no_special_tokens: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = File::open(&arguments.base)?;
    let tokenizer = base.text()?;
    let encode = |text: &str| {
        if arguments.no_special_tokens {
            tokenizer.encode(text, true)
        } else {
            tokenizer.encode_for_model(text)
        }
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if let Some(text) = &arguments.text {
        let ids = encode(text)?;
        if arguments.json {
            writeln!(out, "{}", json!({ "ids": ids })).map_err(of_stdout)?;
        } else {
            let words: Vec<_> = ids.iter().map(u32::to_string).collect();
            writeln!(out, "{}", words.join(" ")).map_err(of_stdout)?;
        }
    }
    if let Some(path) = &arguments.file {
        for text in texts(path)? {
            writeln!(out, "{}", json!({ "ids": encode(&text?)? })).map_err(of_stdout)?;
        }
    }
    out.flush().map_err(of_stdout)?;
    Ok(())
}

/// The texts of a command that reads several.
#[derive(Debug, Args)]
pub(crate) struct TextOptions {
    /// A text; may be repeated (or --file)
    #[arg(
        long = "text",
        value_name = "TEXT",
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    texts: Vec<String>,
    /// JSON lines {"text": …}
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl TextOptions {
    /// The file that texts are read from, if there is one.
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        self.file.as_ref()
    }

    /// One after the other; a file is read line by line.
    pub(crate) fn texts(
        &self,
    ) -> Result<Box<dyn Iterator<Item = Result<String, FileError>> + '_>, FileError> {
        Ok(match &self.file {
            Some(path) => Box::new(texts(path)?),
            None => Box::new(self.texts.iter().cloned().map(Ok)),
        })
    }
}

/// The texts of a JSON-lines file `{"text": …}`, read line by line.
fn texts(path: &PathBuf) -> Result<impl Iterator<Item = Result<String, FileError>>, FileError> {
    let mut lines = Lines::new(BufReader::new(open(path)?), LINE);
    let path = path.clone();
    let (mut line, mut number) = (Vec::new(), 0u64);
    Ok(std::iter::from_fn(move || {
        loop {
            number += 1;
            match lines.next(&mut line) {
                Ok(0) => return None,
                Ok(_) if line.trim_ascii().is_empty() => {}
                Ok(_) => {
                    let line = if number == 1 { without_mark(&line) } else { &line };
                    let text = text(line);
                    let place = || format!("line {number}");
                    return Some(text.map_err(|reason| FileError::format(&path, place(), reason)));
                }
                Err(error) => {
                    let place = format!("line {number}: {error}");
                    return Some(Err(FileError::format(&path, "", place)));
                }
            }
        }
    }))
}

/// The text of a line.
fn text(line: &[u8]) -> Result<String, String> {
    let value: Value =
        serde_json::from_slice(line).map_err(|error| format!("not valid JSON: {error}"))?;
    let text = value["text"].as_str().map(str::to_owned);
    text.ok_or_else(|| "an object with a string \"text\" was expected".into())
}
