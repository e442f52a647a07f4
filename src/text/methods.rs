//! The methods of Python's strings, lists and dictionaries that a chat template may call.
//!
//! Jinja2 hands method calls to Python; here each is one arm. Positions count characters,
//! arguments may be named, and white space is Python's. What changes a list or dictionary in place
//! is unknown, as in transformers' immutable sandbox. The arithmetic on text is in `strings`.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::strings::{self, Side};

/// The arguments of a call.
struct Arguments {
    positional: Vec<Value>,
    named: Kwargs,
}

impl Arguments {
    /// Argument `at`, or the one called `name`; `None` and no argument are the same.
    fn get(&self, at: usize, name: &str) -> Result<Option<Value>, Error> {
        let named = self.named.get::<Option<Value>>(name)?;
        Ok(self.positional.get(at).cloned().or(named).filter(|value| !value.is_none()))
    }

    fn text(&self, at: usize, name: &str) -> Result<Option<String>, Error> {
        let Some(value) = self.get(at, name)? else { return Ok(None) };
        let text = value.as_str().map(str::to_owned);
        text.map(Some).ok_or_else(|| invalid(format!("a string was expected, not {value}")))
    }

    fn required(&self, at: usize, name: &str) -> Result<String, Error> {
        self.text(at, name)?.ok_or_else(|| invalid(format!("the argument {name} is missing")))
    }

    /// A separator, which must not be empty.
    fn separator(&self, at: usize) -> Result<String, Error> {
        let text = self.required(at, "sep")?;
        if text.is_empty() { Err(invalid("the separator is empty".into())) } else { Ok(text) }
    }

    fn number(&self, at: usize, name: &str) -> Result<Option<i64>, Error> {
        self.get(at, name)?.map(i64::try_from).transpose()
    }

    /// A width; `least` characters are there already.
    fn width(&self, at: usize, state: &State<'_, '_>, least: usize) -> Result<usize, Error> {
        let width = self.number(at, "width")?.ok_or_else(|| invalid("no width".into()))?;
        let width = usize::try_from(width).unwrap_or(0);
        pay(state, width.saturating_sub(least))?;
        Ok(width)
    }

    /// All were asked for.
    fn end(&self, most: usize) -> Result<(), Error> {
        if self.positional.len() > most {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        self.named.assert_all_used()
    }
}

fn invalid(reason: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

fn unknown() -> Error {
    Error::from(ErrorKind::UnknownMethod)
}

/// Charges fuel for text before it is made, a step per 64 bytes, as minijinja does for the rest.
fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / 64) as u64)
}

/// Calls `value.method(args)`.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && method == "format"
    {
        return formatted(state, text, args);
    }
    let (Rest(positional), named) = from_args::<(Rest<Value>, Kwargs)>(args)?;
    let arguments = Arguments { positional, named };
    let (result, most) = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_string(state, text, method, &arguments)?,
        (None, ValueKind::Map) => of_dictionary(value, method, &arguments)?,
        (None, ValueKind::Seq) => of_list(value, method, &arguments)?,
        _ => return Err(unknown()),
    };
    arguments.end(most)?;
    Ok(result)
}

/// The result of a method and how many arguments it takes.
type Called = Result<(Value, usize), Error>;

fn of_string(state: &State<'_, '_>, text: &str, method: &str, arguments: &Arguments) -> Called {
    if let Some(answer) = strings::is(text, method) {
        return Ok((answer.into(), 0));
    }
    if let Some(changed) = strings::cased(text, method) {
        return Ok((changed.into(), 0));
    }
    match method {
        "split" | "rsplit" | "splitlines" | "partition" | "rpartition" => {
            parts(text, method, arguments)
        }
        "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith" => {
            searched(text, method, arguments)
        }
        "strip" | "lstrip" | "rstrip" => {
            let side = match method {
                "strip" => Side::Both,
                "lstrip" => Side::Left,
                _ => Side::Right,
            };
            let characters = arguments.text(0, "chars")?;
            Ok((strings::strip(text, characters.as_deref(), side).into(), 1))
        }
        "removeprefix" => {
            let prefix = arguments.required(0, "prefix")?;
            Ok((text.strip_prefix(prefix.as_str()).unwrap_or(text).into(), 1))
        }
        "removesuffix" => {
            let suffix = arguments.required(0, "suffix")?;
            Ok((text.strip_suffix(suffix.as_str()).unwrap_or(text).into(), 1))
        }
        "replace" => replaced(state, text, arguments).map(|text| (text, 3)),
        "join" => joined(state, text, arguments).map(|text| (text, 1)),
        "format_map" => {
            let values = arguments.get(0, "mapping")?.unwrap_or_default();
            let named: Kwargs = values
                .try_iter()?
                .filter_map(|key| Some((key.as_str()?.to_owned(), values.get_item(&key).ok()?)))
                .collect();
            Ok((formatted(state, text, &[named.into()])?, 1))
        }
        _ => padded(state, text, method, arguments),
    }
}

/// Methods that fill up with a character.
fn padded(state: &State<'_, '_>, text: &str, method: &str, arguments: &Arguments) -> Called {
    let length = text.chars().count();
    match method {
        "ljust" | "rjust" | "center" => {
            let width = arguments.width(0, state, length)?;
            let fill = arguments.text(1, "fillchar")?.unwrap_or_else(|| " ".into());
            let mut characters = fill.chars();
            let (Some(fill), None) = (characters.next(), characters.next()) else {
                return Err(invalid("the fill character must be one character".into()));
            };
            let side = match method {
                "ljust" => Side::Right,
                "rjust" => Side::Left,
                _ => Side::Both,
            };
            Ok((strings::pad(text, width, fill, side).into(), 2))
        }
        "zfill" => Ok((strings::zero_fill(text, arguments.width(0, state, length)?).into(), 1)),
        "expandtabs" => {
            let size = arguments.number(0, "tabsize")?.unwrap_or(8);
            let size = usize::try_from(size).unwrap_or(0);
            pay(state, size.saturating_mul(text.matches('\t').count()))?;
            Ok((strings::expand_tabs(text, size).into(), 1))
        }
        _ => Err(unknown()),
    }
}

fn parts(text: &str, method: &str, arguments: &Arguments) -> Called {
    fn list(parts: Vec<&str>) -> Value {
        parts.into_iter().map(Value::from).collect()
    }
    Ok(match method {
        "splitlines" => {
            let keep = arguments.get(0, "keepends")?.is_some_and(|keep| keep.is_true());
            (list(strings::lines(text, keep)), 1)
        }
        "partition" | "rpartition" => {
            let separator = arguments.separator(0)?;
            let found = match method {
                "partition" => text.split_once(separator.as_str()),
                _ => text.rsplit_once(separator.as_str()),
            };
            let parts = match (found, method) {
                (Some((left, right)), _) => [left, &separator, right],
                (None, "partition") => [text, "", ""],
                (None, _) => ["", "", text],
            };
            (Value::from(Tuple::from(parts.map(Value::from))), 1)
        }
        _ => {
            let most = arguments.number(1, "maxsplit")?;
            let most = most.and_then(|most| usize::try_from(most).ok());
            let from_right = method == "rsplit";
            let parts = match arguments.get(0, "sep")? {
                None => strings::words(text, most, from_right),
                Some(_) => {
                    let separator = arguments.separator(0)?;
                    let limit = most.map_or(usize::MAX, |most| most.saturating_add(1));
                    if from_right {
                        let mut parts: Vec<_> = text.rsplitn(limit, &separator).collect();
                        parts.reverse();
                        return Ok((list(parts), 2));
                    }
                    return Ok((list(text.splitn(limit, &separator).collect()), 2));
                }
            };
            (list(parts), 2)
        }
    })
}

/// Methods that look for something between a first and a last position.
fn searched(text: &str, method: &str, arguments: &Arguments) -> Called {
    let (start, end) = (arguments.number(1, "start")?, arguments.number(2, "end")?);
    let window = strings::window(text, start, end);
    if matches!(method, "startswith" | "endswith") {
        let affix = arguments.get(0, "prefix")?.unwrap_or_default();
        let matches = |affix: &Value| match (affix.as_str(), window) {
            (None, _) => Err(invalid(format!("{method} takes a string or a tuple of strings"))),
            (Some(_), None) => Ok(false),
            (Some(affix), Some((_, part))) if method == "startswith" => Ok(part.starts_with(affix)),
            (Some(affix), Some((_, part))) => Ok(part.ends_with(affix)),
        };
        if affix.kind() != ValueKind::Seq {
            return Ok((matches(&affix)?.into(), 3));
        }
        for affix in affix.try_iter()? {
            if matches(&affix)? {
                return Ok((true.into(), 3));
            }
        }
        return Ok((false.into(), 3));
    }
    let needle = arguments.required(0, "sub")?;
    if method == "count" {
        let count = window.map_or(0, |(_, part)| part.matches(needle.as_str()).count());
        return Ok((count.into(), 3));
    }
    let found = window.and_then(|(before, part)| {
        let at = if method.starts_with('r') { part.rfind(&needle) } else { part.find(&needle) };
        at.map(|at| before + part[..at].chars().count())
    });
    match found {
        Some(at) => Ok((at.into(), 3)),
        None if method.ends_with("find") => Ok(((-1).into(), 3)),
        None => Err(invalid("substring not found".into())),
    }
}

fn replaced(state: &State<'_, '_>, text: &str, arguments: &Arguments) -> Result<Value, Error> {
    let (old, new) = (arguments.required(0, "old")?, arguments.required(1, "new")?);
    let most = arguments.number(2, "count")?.and_then(|most| usize::try_from(most).ok());
    let most = most.unwrap_or(usize::MAX);
    let places = text.len() / old.len().max(1) + 1;
    pay(state, places.min(most).saturating_mul(new.len().saturating_sub(old.len())))?;
    Ok(text.replacen(old.as_str(), &new, most).into())
}

fn joined(state: &State<'_, '_>, text: &str, arguments: &Arguments) -> Result<Value, Error> {
    let mut joined = String::new();
    for (i, part) in arguments.get(0, "iterable")?.unwrap_or_default().try_iter()?.enumerate() {
        let Some(part) = part.as_str() else {
            return Err(invalid(format!("join: item {i} is no string: {part}")));
        };
        pay(state, text.len() + part.len())?;
        if i > 0 {
            joined.push_str(text);
        }
        joined.push_str(part);
    }
    Ok(joined.into())
}

/// `str.format`.
fn formatted(_: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    format(FormatStyle::StrFormat, text, args).map(Value::from)
}

fn of_dictionary(value: &Value, method: &str, arguments: &Arguments) -> Called {
    let keys = || value.try_iter().map(|keys| keys.collect::<Vec<_>>());
    let item = |key: &Value| value.get_item(key);
    Ok(match method {
        "get" => {
            let key = arguments.get(0, "key")?.unwrap_or_default();
            let default = arguments.get(1, "default")?;
            let found = item(&key).ok().filter(|found| !found.is_undefined());
            (found.or(default).unwrap_or(Value::from(())), 2)
        }
        "keys" => (Value::from(keys()?), 0),
        "values" => (keys()?.iter().map(item).collect::<Result<Vec<_>, _>>()?.into(), 0),
        "items" => {
            let pair = |key: Value| Ok(Value::from(Tuple::from([key.clone(), item(&key)?])));
            (keys()?.into_iter().map(pair).collect::<Result<Vec<_>, Error>>()?.into(), 0)
        }
        "copy" => (value.clone(), 0),
        _ => return Err(unknown()),
    })
}

fn of_list(value: &Value, method: &str, arguments: &Arguments) -> Called {
    let wanted = arguments.positional.first().cloned().unwrap_or_default();
    Ok(match method {
        "count" => (value.try_iter()?.filter(|item| *item == wanted).count().into(), 1),
        "index" => {
            let found = value.try_iter()?.position(|item| item == wanted);
            let missing = || invalid(format!("{wanted} is not in the list"));
            (found.ok_or_else(missing)?.into(), 1)
        }
        "copy" => (value.clone(), 0),
        _ => return Err(unknown()),
    })
}
