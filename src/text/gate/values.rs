//! Bounds on the values of a template.
//!
//! The engine pays for what it creates, not for what it unfolds: sixty times `[x, x]` is cheap to
//! make and never ends when it is printed, compared or turned to JSON, and a list in a list in a
//! list overflows the stack when it is dropped. So whatever can build a container is followed by a
//! look at the result (see `template`): its parts, counted as often as they would be printed, its
//! bytes and its depth are bounded. Values made of bounded values by one step are bounded.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// Containers inside containers.
const DEPTH: usize = 48;

/// How much one value may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Parts, counted as often as they are reached.
    pub(super) parts: usize,
    /// Bytes of strings, counted likewise.
    pub(super) bytes: usize,
}

impl Bounds {
    /// Bounds for a conversation of `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self { parts: 20_000 + bytes, bytes: (1 << 20) + bytes.saturating_mul(8) }
    }

    /// Refuses a value that is more than this; says how many parts it has.
    pub(super) fn check(self, value: &Value) -> Result<usize, Error> {
        let (mut parts, mut bytes) = (0, 0);
        let mut open: Vec<Box<dyn Iterator<Item = Value>>> = Vec::new();
        let mut next = Some(value.clone());
        loop {
            let Some(value) = next.take() else {
                let Some(items) = open.last_mut() else { return Ok(parts) };
                next = items.next();
                if next.is_none() {
                    open.pop();
                }
                continue;
            };
            parts += 1;
            bytes += value.as_str().map_or(0, str::len);
            if parts > self.parts || bytes > self.bytes {
                return Err(refused("a value grows without measure"));
            }
            if !open.is_empty() && is_namespace(&value) {
                return Err(refused("a namespace is kept in a list, a dictionary or a namespace"));
            }
            match value.kind() {
                ValueKind::Seq | ValueKind::Iterable => open.push(Box::new(value.try_iter()?)),
                ValueKind::Map => {
                    let keys = value.try_iter()?;
                    let both = keys.flat_map(move |key| {
                        let item = value.get_item(&key).unwrap_or_default();
                        [key, item]
                    });
                    open.push(Box::new(both));
                }
                _ => {}
            }
            if open.len() > DEPTH {
                return Err(refused("lists and dictionaries lie in each other too deep"));
            }
        }
    }

    /// [`check`](Self::check), paid for.
    pub(super) fn charge(self, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
        state.consume_fuel(self.check(value)? as u64 / 8)
    }
}

/// Refuses a namespace as a value of a namespace: it could hold itself. (One in a list or a
/// dictionary is refused when that is made.)
pub(super) fn check_stored(value: &Value) -> Result<(), Error> {
    if is_namespace(value) { Err(refused("a namespace is kept in a namespace")) } else { Ok(()) }
}

/// Namespaces are the one container that changes after it was measured.
fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

/// The widest that a number in an argument or in a format can make a text.
const WIDTH: u64 = 4_096;

/// Refuses method calls on strings that fill them up (`format`, `center`, `zfill` …) past
/// [`WIDTH`], and pays for them.
pub(super) fn check_method(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<(), Error> {
    let Some(text) = value.as_str() else { return Ok(()) };
    let mut asked = 0u64;
    if method == "format" || method == "format_map" {
        let mut is_inside = false;
        let mut number = 0u64;
        for c in text.chars() {
            match (c, c.to_digit(10)) {
                ('{', _) => (is_inside, number) = (true, 0),
                ('}', _) => (is_inside, number) = (false, 0),
                (_, Some(digit)) if is_inside => {
                    number = number.saturating_mul(10).saturating_add(digit.into())
                }
                _ => number = 0,
            }
            if number > WIDTH {
                return Err(refused("a format asks for too wide a field"));
            }
            asked += number;
        }
    } else if matches!(method, "center" | "ljust" | "rjust" | "zfill" | "expandtabs") {
        for argument in arguments {
            // A number that is none is refused by the method.
            let number = u64::try_from(argument.clone()).unwrap_or(0);
            if number > WIDTH {
                return Err(refused("a text is filled up too wide"));
            }
            asked +=
                number.saturating_mul(if method == "expandtabs" { text.len() as u64 } else { 1 });
        }
    }
    state.consume_fuel((asked + text.len() as u64) / 64)
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}
