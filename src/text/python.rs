//! What chat templates expect of Python: `json.dumps`, `datetime.now().strftime`, and what counts
//! as iterable and as a sequence, and filters of Jinja2 that minijinja lacks. Methods of strings and
//! dictionaries are in `methods`.

use std::io::{self, Write};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::Formatter;

use super::strings::{self, Side};

/// The filter `tojson` as transformers defines it: `json.dumps` with `ensure_ascii`, `indent`,
/// `separators` and `sort_keys`. (Jinja's own one escapes HTML.)
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let refuse =
        |reason: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {reason}"));
    // They stand before every item: long ones would take gigabytes.
    let short = |text: String| match text.len() {
        0..=MOST_BETWEEN => Ok(text),
        length => {
            Err(refuse(&format!("{length} bytes between items, at most {MOST_BETWEEN} are taken")))
        }
    };
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if !indent.is_none() => Some(match indent.as_str() {
            Some(text) => short(text.to_owned())?,
            None => " ".repeat(
                usize::try_from(indent)
                    .ok()
                    .filter(|&width| width <= MOST_BETWEEN)
                    .ok_or_else(|| refuse("indent is no width"))?,
            ),
        }),
        _ => None,
    };
    let (item, key) = match options.get::<Option<Vec<String>>>("separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(both) => {
            let [item, key] = <[String; 2]>::try_from(both)
                .map_err(|_| refuse("two separators were expected"))?;
            (short(item)?, short(key)?)
        }
    };
    let is_ascii = ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false);
    let is_sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;

    let mut tree = serde_json::to_value(value).map_err(|error| refuse(&error.to_string()))?;
    if is_sorted {
        tree.sort_all_objects();
    }
    let dumps = Dumps { indent, item, key, is_ascii, depth: 0, is_filled: false };
    let mut bytes = Vec::new();
    let written = tree.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, dumps));
    written.map_err(|error| refuse(&error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| refuse(&error.to_string()))
}

/// Bytes of an indentation or a separator of `tojson`.
const MOST_BETWEEN: usize = 64;
/// Bytes of a date's format.
const MOST_FORMAT: usize = 1_024;

/// The function `strftime_now`: the local date and time.
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    if format.len() > MOST_FORMAT {
        let reason =
            format!("strftime_now: a format of {} bytes, at most {MOST_FORMAT}", format.len());
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    let now = jiff::ZonedDateTime::now();
    jiff::fmt::strtime::format(format, &now)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// The filter `center`: white space on both sides, up to `width` characters (80 if not given).
pub(super) fn center(text: &str, width: Option<usize>) -> Result<String, Error> {
    let width = width.unwrap_or(80);
    if width > MOST_COLUMNS {
        let reason = format!("center: a width of {width} is over {MOST_COLUMNS}");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    Ok(strings::pad(text, width, ' ', Side::Both))
}

/// The widest text that a filter makes by filling it up.
const MOST_COLUMNS: usize = 1 << 16;

/// The filter `truncate`: at most `length` characters (255), `end` (`...`) included, cut between
/// words unless `killwords`; a text that is longer by `leeway` (5) stays whole.
pub(super) fn truncate(
    text: &str,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<String>,
    options: Kwargs,
) -> Result<String, Error> {
    let length = length.or(options.get::<Option<usize>>("length")?).unwrap_or(255);
    let cuts_words = killwords.or(options.get::<Option<bool>>("killwords")?).unwrap_or(false);
    let end = end.or(options.get::<Option<String>>("end")?).unwrap_or_else(|| "...".into());
    let leeway = options.get::<Option<usize>>("leeway")?.unwrap_or(5);
    options.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !cuts_words => words,
        _ => kept.as_str(),
    };
    Ok(format!("{kept}{end}"))
}

/// The filter `wordcount`: runs of letters, digits and underscores.
pub(super) fn word_count(text: &str) -> usize {
    text.split(|c: char| c != '_' && !c.is_alphanumeric()).filter(|word| !word.is_empty()).count()
}

/// The test `iterable`: `none` is not.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The test `sequence`: strings and dictionaries are, as they have a length and elements.
pub(super) fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
}

/// The separators, indentation and escapes of `json.dumps`.
struct Dumps {
    indent: Option<String>,
    item: String,
    key: String,
    is_ascii: bool,
    depth: usize,
    /// Does the array or object that ends next hold anything?
    is_filled: bool,
}

impl Dumps {
    fn new_line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        match &self.indent {
            Some(indent) => write!(out, "\n{}", indent.repeat(self.depth)),
            None => Ok(()),
        }
    }

    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.depth += 1;
        self.is_filled = false;
        out.write_all(bracket.as_bytes())
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &str) -> io::Result<()> {
        self.depth -= 1;
        if self.is_filled {
            self.new_line(out)?;
        }
        out.write_all(bracket.as_bytes())
    }

    fn next<W: ?Sized + Write>(&self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.new_line(out)
    }
}

impl Formatter for Dumps {
    /// As `repr` in Python: an exponent of two digits below 1e-4 and from 1e16 on.
    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        let scientific = format!("{value:e}");
        match scientific.split_once('e').map(|(digits, power)| (digits, power.parse::<i32>())) {
            Some((digits, Ok(power))) if !(-4..16).contains(&power) => {
                let sign = if power < 0 { '-' } else { '+' };
                write!(out, "{digits}e{sign}{:02}", power.abs())
            }
            _ if value.fract() == 0.0 => write!(out, "{value}.0"),
            _ => write!(out, "{value}"),
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, "[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, "]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, "{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, "}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.is_filled = true;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.is_ascii {
            return out.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c.is_ascii() {
                write!(out, "{c}")?;
            } else {
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }
}
