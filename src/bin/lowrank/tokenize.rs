//! `lowrank tokenize`: text to token ids, as the base's archive says. Special tokens are parsed;
//! nothing is put in front.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use clap::Args;
use lowrank::file::FileError;
use lowrank::text::without_mark;
use serde_json::{Value, json};

use crate::Failure;
use crate::files::File;
use crate::output::of_stdout;

const EXAMPLES: &str = r#"Examples:
  lowrank tokenize --base base.lrk "Once upon a time"
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
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let base = File::open(&arguments.base)?;
    let border = base.text()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if let Some(text) = &arguments.text {
        let ids = border.encode(text, true)?;
        if arguments.json {
            writeln!(out, "{}", json!({ "ids": ids })).map_err(of_stdout)?;
        } else {
            let words: Vec<_> = ids.iter().map(u32::to_string).collect();
            writeln!(out, "{}", words.join(" ")).map_err(of_stdout)?;
        }
    }
    if let Some(path) = &arguments.file {
        for text in texts(path)? {
            writeln!(out, "{}", json!({ "ids": border.encode(&text?, true)? }))
                .map_err(of_stdout)?;
        }
    }
    out.flush().map_err(of_stdout)?;
    Ok(())
}

/// The texts of a command that reads several.
#[derive(Debug, Args)]
pub(crate) struct TextOptions {
    /// A text; may be repeated
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
    let file = std::fs::File::open(path).map_err(|error| FileError::io(path, error))?;
    let path = path.clone();
    let lines = BufReader::new(file)
        .lines()
        .enumerate()
        .filter(|(_, line)| line.as_ref().map_or(true, |line| !line.trim().is_empty()));
    Ok(lines.map(move |(number, line)| {
        let line = line.map_err(|error| FileError::io(&path, error))?;
        let wrong =
            |reason: String| FileError::format(&path, format!("line {}", number + 1), reason);
        let line = if number == 0 { without_mark(line.as_bytes()) } else { line.as_bytes() };
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| wrong(format!("not valid JSON: {error}")))?;
        value["text"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| wrong("an object with a string \"text\" was expected".into()))
    }))
}
