//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;

/// Without a terminal, the most time between two lines of work that has details.
const QUIET: Duration = Duration::from_secs(5);

/// Shows how far something is, on stderr.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    has_details: bool,
    tenths: u64,
    /// When the work began, or went on, and how much was done then.
    began: Option<(Instant, u64)>,
    last_line: Instant,
}

impl Progress {
    /// A bar, or a line per tenth.
    pub(crate) fn new(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = "{prefix} [{bar:30}] {pos}/{len}  {eta} left  {wide_msg}";
            let style = ProgressStyle::with_template(template);
            ProgressBar::new(0)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(what)
        });
        let last_line = Instant::now();
        Self { bar, what, has_details: false, tenths: 0, began: None, last_line }
    }

    /// As [`new`](Self::new), for work whose messages say how it goes: without a terminal they are
    /// printed every few seconds, with the step and the time that is left.
    pub(crate) fn with_details(what: &'static str) -> Self {
        Self { has_details: true, ..Self::new(what) }
    }

    /// `done` of `total` are done; `message` says what comes next, or how it goes.
    pub(crate) fn show(&mut self, done: u64, total: u64, message: &str) {
        let is_first = self.began.is_none();
        let (began, before) = *self.began.get_or_insert((Instant::now(), done));
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            if is_first {
                // Work that goes on did not do all of this just now.
                bar.reset_eta();
            }
            return bar.set_message(message.to_owned());
        }
        let tenths = u64::try_from(10 * u128::from(done) / u128::from(total.max(1))).unwrap_or(10);
        let is_late = self.has_details && self.last_line.elapsed() >= QUIET;
        if tenths <= self.tenths && !is_late {
            return;
        }
        (self.tenths, self.last_line) = (tenths, Instant::now());
        let what = self.what;
        if !self.has_details {
            return note(format_args!("{what} {tenths}0 %"));
        }
        let percent = 100 * u128::from(done) / u128::from(total.max(1));
        let left = match began.elapsed().checked_div(u32::try_from(done - before).unwrap_or(0)) {
            Some(each) if done < total => {
                let seconds = each.as_secs_f64() * (total - done) as f64;
                format!("  {} left", duration(seconds))
            }
            _ => String::new(),
        };
        note(format_args!("{what} {percent} %  step {done}/{total}  {message}{left}"));
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

/// Seconds in the largest unit that has two of it.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_have_two_digits_where_they_can() {
        let cases =
            [(3.2, "3 s"), (119.0, "119 s"), (600.0, "10 min"), (7300.0, "2 h"), (2e5, "2 days")];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected);
        }
    }
}
