//! Printing: results to stdout, notes to stderr. A reader that has gone away or a full disk is an
//! error here, not a panic; what becomes of it is `main`'s matter.

use std::fmt::Display;
use std::io::{self, Write};

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
