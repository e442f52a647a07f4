//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;

/// Shows how far something is, on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    tenths: usize,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {wide_msg}");
            ProgressBar::new(0)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(what)
        });
        Self { bar, what, tenths: 0 }
    }

    /// `done` of `total` are done; `name` comes next.
    pub(crate) fn show(&mut self, done: usize, total: usize, name: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                bar.set_message(name.to_owned());
            }
            // Elsewhere a line per tenth.
            None => {
                let tenths = (10 * done).checked_div(total).unwrap_or(0);
                if tenths > self.tenths {
                    self.tenths = tenths;
                    note(format_args!("{} {}0 %", self.what, tenths));
                }
            }
        }
    }

    /// A line that stays.
    pub(crate) fn note(&self, text: std::fmt::Arguments<'_>) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
