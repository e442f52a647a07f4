//! `--adapter [NAME=]FILE[:WEIGHT]`, the same in every command: what was typed, the opened files,
//! and attaching them.
//!
//! A path may have `=` and `:` in it: what exists is taken for the path before anything is split
//! off.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use lowrank::adapter::{Adapter, AdapterSet, Choice};
use lowrank::file::FileError;

use crate::Failure;
use crate::files::File;
use crate::model::ModelOptions;
use crate::output::note;

/// Adapters that are active together.
#[derive(Debug, Args)]
pub(crate) struct AdapterOptions {
    /// An adapter archive, a name for it (its file's if not given) and its weight (1 if not given);
    /// may be repeated, the contributions add up
    #[arg(long = "adapter", value_name = "[NAME=]FILE[:WEIGHT]", value_parser = argument())]
    pub(crate) adapters: Vec<AdapterArgument>,
}

impl AdapterOptions {
    /// The files that a command with these options reads.
    pub(crate) fn inputs(&self, model: &ModelOptions) -> Vec<PathBuf> {
        let parts = self.adapters.iter().map(|typed| split(&typed.0, &|path| path.exists()));
        [model.base.clone()].into_iter().chain(parts.flatten().map(|parts| parts.path)).collect()
    }
}

/// `[NAME=]FILE[:WEIGHT]` as it was typed.
#[derive(Debug, Clone)]
pub(crate) struct AdapterArgument(OsString);

/// Takes any argument: what is wrong with it is said when it is opened.
pub(crate) fn argument() -> impl TypedValueParser<Value = AdapterArgument> {
    OsStringValueParser::new().map(AdapterArgument)
}

/// The parts of an argument.
#[derive(Debug, Clone, PartialEq)]
struct Parts {
    name: Option<String>,
    path: PathBuf,
    weight: f32,
}

/// An opened adapter.
#[derive(Debug)]
pub(crate) struct OpenAdapter {
    pub(crate) name: String,
    /// Was the name given?
    pub(crate) is_named: bool,
    pub(crate) file: File,
    pub(crate) weight: f32,
}

impl AdapterArgument {
    /// The name, its file's if none is given, the path and the weight.
    #[cfg(feature = "serve")]
    pub(crate) fn parts(&self) -> Result<(String, PathBuf, f32), Failure> {
        let Parts { name, path, weight } = split(&self.0, &|path| path.exists())?;
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok((name.unwrap_or_else(stem), path, weight))
    }

    fn open(&self) -> Result<OpenAdapter, Failure> {
        let parts = split(&self.0, &|path| path.exists())?;
        let stem = || parts.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(OpenAdapter {
            is_named: parts.name.is_some(),
            name: parts.name.clone().unwrap_or_else(stem),
            file: File::open(&parts.path)?,
            weight: parts.weight,
        })
    }
}

/// Opens all of them.
pub(crate) fn open_adapters(arguments: &[AdapterArgument]) -> Result<Vec<OpenAdapter>, Failure> {
    arguments.iter().map(AdapterArgument::open).collect()
}

/// Tells which adapters have a classifier, which predicting a text makes no use of.
pub(crate) fn note_classifiers(adapters: &[OpenAdapter]) -> Result<(), Failure> {
    for OpenAdapter { file, .. } in adapters {
        if file.adapter()?.classifier().is_some() {
            note(format_args!(
                "lowrank: {}: its classifier has no effect here; classify uses it",
                file.path.display()
            ));
        }
    }
    Ok(())
}

/// What is said of numbers that came out so.
pub(crate) const NOT_FINITE: &str = "the result is not finite: the weights are damaged (run verify), \
                                     or an adapter's weight is far too large";

/// The archives and weights, as the library's measures take them.
pub(crate) fn archives(adapters: &[OpenAdapter]) -> Vec<(&[u8], f32)> {
    adapters.iter().map(|adapter| (&adapter.file.map[..], adapter.weight)).collect()
}

/// The adapters in the files; an error names the file.
pub(crate) fn opened(adapters: &[OpenAdapter]) -> Result<Vec<Adapter<'_>>, FileError> {
    adapters.iter().map(|adapter| adapter.file.adapter()).collect()
}

/// Splits an argument; `exists` says which paths there are.
fn split(typed: &OsString, exists: &dyn Fn(&Path) -> bool) -> Result<Parts, String> {
    // Names and weights are text: what is none is a path as a whole.
    let Some(text) = typed.to_str().filter(|text| !exists(Path::new(text))) else {
        return Ok(Parts { name: None, path: typed.into(), weight: 1.0 });
    };
    // A name in front of a path that has a colon and a number in it.
    let after_a_name = |text: &str| {
        let name_and_path = |(at, _)| (text[..at].to_owned(), text[at + 1..].to_owned());
        let mut all = text.match_indices('=').map(name_and_path);
        all.find(|(name, path)| !name.is_empty() && exists(Path::new(path)))
    };
    if let Some((name, path)) = after_a_name(text) {
        return Ok(Parts { name: Some(name), path: path.into(), weight: 1.0 });
    }
    let (rest, weight) = match text.rsplit_once(':') {
        Some((rest, weight)) => match weight.parse::<f32>() {
            Ok(weight) if weight.is_finite() => (rest, weight),
            Err(_) if !exists(Path::new(rest)) && after_a_name(rest).is_none() => (text, 1.0),
            _ => {
                return Err(format!(
                    "--adapter {text}: the weight \"{weight}\" is not a finite number"
                ));
            }
        },
        None => (text, 1.0),
    };
    if exists(Path::new(rest)) {
        return Ok(Parts { name: None, path: rest.into(), weight });
    }
    // Of files that are not there the shortest name is the likeliest, and a name has no folders.
    let likely = || {
        let (name, path) = rest.split_once('=')?;
        let is_name = !name.is_empty() && !path.is_empty() && !name.contains(['/', '\\']);
        is_name.then(|| (name.to_owned(), path.to_owned()))
    };
    Ok(match after_a_name(rest).or_else(likely) {
        Some((name, path)) => Parts { name: Some(name), path: path.into(), weight },
        None => Parts { name: None, path: rest.into(), weight },
    })
}

/// What a session must know of the adapters that are attached.
#[derive(Debug)]
pub(crate) struct Attached {
    /// All of them, with their weights.
    pub(crate) choices: Vec<Choice>,
    /// Their ranks together.
    pub(crate) rank: usize,
    /// What attaching took.
    pub(crate) time: Duration,
}

/// Attaches `adapters` to the slots from 0 on; an error names the file.
pub(crate) fn attach<'m>(
    set: &mut AdapterSet<'_, 'm>,
    adapters: &'m [OpenAdapter],
) -> Result<Attached, FileError> {
    let opened = opened(adapters)?;
    let weights = adapters.iter().map(|adapter| adapter.weight);
    let start = Instant::now();
    let choices = set.attach_all(opened.iter().copied().zip(weights));
    let time = start.elapsed();
    let choices = choices.map_err(|refused| {
        FileError::core(&adapters[refused.index].file.path, "", refused.error)
    })?;
    Ok(Attached { choices, rank: opened.iter().map(|adapter| adapter.max_rank()).sum(), time })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(name: Option<&str>, path: &str, weight: f32) -> Parts {
        Parts { name: name.map(String::from), path: path.into(), weight }
    }

    #[test]
    fn name_and_weight_are_split_off_what_exists() {
        let files = ["a.lrk", "a=b.lrk", "v:2", "x=y:0.5", "dir=1/a.lrk"];
        let split = |text: &str| {
            split(&text.into(), &|path| files.iter().any(|file| path == Path::new(file)))
        };
        for (text, expected) in [
            ("a.lrk", parts(None, "a.lrk", 1.0)),
            ("a.lrk:0.5", parts(None, "a.lrk", 0.5)),
            ("a.lrk:-1e-1", parts(None, "a.lrk", -0.1)),
            ("style=a.lrk", parts(Some("style"), "a.lrk", 1.0)),
            ("style=a.lrk:2", parts(Some("style"), "a.lrk", 2.0)),
            ("a=b.lrk", parts(None, "a=b.lrk", 1.0)),
            ("a=b.lrk:3", parts(None, "a=b.lrk", 3.0)),
            ("n=a=b.lrk:3", parts(Some("n"), "a=b.lrk", 3.0)),
            ("v:2", parts(None, "v:2", 1.0)),
            ("v:2:4", parts(None, "v:2", 4.0)),
            ("n=v:2", parts(Some("n"), "v:2", 1.0)),
            ("n=v:2:4", parts(Some("n"), "v:2", 4.0)),
            ("x=y:0.5", parts(None, "x=y:0.5", 1.0)),
            ("dir=1/a.lrk:0", parts(None, "dir=1/a.lrk", 0.0)),
            // Nothing of that name: what the message about it will say.
            ("none.lrk", parts(None, "none.lrk", 1.0)),
            ("n=none.lrk:2", parts(Some("n"), "none.lrk", 2.0)),
            ("c:\\none.lrk", parts(None, "c:\\none.lrk", 1.0)),
            ("no/dir=x", parts(None, "no/dir=x", 1.0)),
            ("=a.lrk", parts(None, "=a.lrk", 1.0)),
        ] {
            assert_eq!(split(text), Ok(expected), "{text}");
        }
        for text in ["a.lrk:nan", "a.lrk:inf", "a.lrk:1e99", "a.lrk:half", "n=a.lrk:half"] {
            assert!(split(text).unwrap_err().contains("is not a finite number"), "{text}");
        }
    }
}
