//! Printing: results to stdout, notes to stderr. A reader that has gone away or a full disk is an
//! error here, not a panic; what becomes of it is `main`'s matter. And where commands write to.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use lowrank::file::{FileError, Kind, Output};

/// What every command with an output has.
#[derive(Debug, Args)]
pub(crate) struct Force {
    /// Write also where something of another kind is
    #[arg(long)]
    pub(crate) force: bool,
}

impl Force {
    /// Tries the place `path` for something of this kind that is made from `inputs`.
    pub(crate) fn output(
        &self,
        path: &Path,
        kind: Kind,
        inputs: &[&Path],
    ) -> Result<Output, FileError> {
        Output::new(path, kind, inputs, self.force)
    }
}

/// Says what was written to `output`: not among its bytes.
pub(crate) fn written(output: &Output, text: impl Display) -> io::Result<()> {
    if output.is_stdout() {
        note(text);
        return Ok(());
    }
    line(text)
}

/// A text of somebody else's on one line: what would move a terminal's cursor, change its colours
/// or begin another line or column is shown as an escape.
pub(crate) fn printable(text: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

/// Prints a line of results.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}").map_err(of_stdout)
}

/// Prints a part of a line at once.
pub(crate) fn part(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}").and_then(|()| out.flush()).map_err(of_stdout)
}

/// Says something that is no result. If nobody can hear it, nothing is lost.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Names the place; the kind stays.
pub(crate) fn of_stdout(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}
