//! Python's arithmetic on strings, for the methods that chat templates call. No Jinja here.
//!
//! Case and classes of characters are Rust's tables; they are Python's for everything but a few
//! rare letters (title case of digraphs, digits that are no decimal digits).

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// Which side of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Both,
}

/// White space: Unicode's, and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// Digits that are not decimal: superscripts, subscripts, circled ones.
fn is_other_digit(c: char) -> bool {
    matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨' | '⑴'..='⑼' | '⒈'..='⒐')
}

/// A decimal digit of any script: a number whose block of ten it belongs to.
fn is_decimal(c: char) -> bool {
    // Made once: a text may have a million of them.
    static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\d$").ok());
    let matches = |digit: &Regex| digit.is_match(c.encode_utf8(&mut [0; 4]));
    c.is_ascii_digit() || c.is_numeric() && DIGIT.as_ref().is_some_and(matches)
}

fn is_cased(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase()
}

/// The answer of an `is…` method, or `None` if there is none of this name.
pub(super) fn is(text: &str, method: &str) -> Option<bool> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let any = |test: fn(char) -> bool| text.chars().any(test);
    Some(match method {
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(|c| is_decimal(c) || is_other_digit(c)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isascii" => text.is_ascii(),
        "islower" => any(is_cased) && !any(char::is_uppercase),
        "isupper" => any(is_cased) && !any(char::is_lowercase),
        "istitle" => any(is_cased) && title(text) == text,
        "isprintable" => text.chars().all(|c| c == ' ' || !c.is_control() && !is_space(c)),
        "isidentifier" => {
            let mut characters = text.chars();
            characters.next().is_some_and(|c| c == '_' || c.is_alphabetic())
                && characters.all(|c| c == '_' || c.is_alphanumeric())
        }
        _ => return None,
    })
}

/// `text` with its case changed by a method, or `None` if there is none of this name.
pub(super) fn cased(text: &str, method: &str) -> Option<String> {
    Some(match method {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        "casefold" => text.replace(['ß', 'ẞ'], "ss").to_lowercase().replace('ς', "σ"),
        "title" => title(text),
        "capitalize" => {
            let mut characters = text.chars();
            let first = characters.next().map(char::to_uppercase);
            first.into_iter().flatten().chain(characters.as_str().to_lowercase().chars()).collect()
        }
        "swapcase" => {
            let swap = |c: char| {
                let (upper, lower) = (c.is_lowercase(), c.is_uppercase());
                let upper = upper.then(|| c.to_uppercase()).into_iter().flatten();
                let lower = lower.then(|| c.to_lowercase()).into_iter().flatten();
                let same = (!is_cased(c)).then_some(c);
                upper.chain(lower).chain(same).collect::<String>()
            };
            text.chars().map(swap).collect()
        }
        _ => return None,
    })
}

/// A capital at the beginning of each run of letters.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut follows = false;
    for c in text.chars() {
        if follows {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        follows = is_cased(c);
    }
    out
}

/// `text` without the white space or the `characters` at its ends.
pub(super) fn strip<'t>(text: &'t str, characters: Option<&str>, side: Side) -> &'t str {
    // Looked up, not searched: text and set may both be long.
    let set = characters.map(|set| set.chars().collect::<BTreeSet<char>>());
    let goes = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
    let text = if side == Side::Right { text } else { text.trim_start_matches(goes) };
    if side == Side::Left { text } else { text.trim_end_matches(goes) }
}

/// What white space separates: at most `most` cuts, and what is left in one part.
pub(super) fn words(text: &str, most: Option<usize>, from_right: bool) -> Vec<&str> {
    let Some(most) = most else {
        return text.split(is_space).filter(|word| !word.is_empty()).collect();
    };
    let trim = |text| strip(text, None, if from_right { Side::Right } else { Side::Left });
    let (mut rest, mut words) = (trim(text), Vec::new());
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut.filter(|_| words.len() < most) else {
            words.push(rest);
            break;
        };
        let (left, right) = rest.split_at(at);
        let right = &right[right.chars().next().map_or(0, char::len_utf8)..];
        let word;
        (word, rest) = if from_right { (right, trim(left)) } else { (left, trim(right)) };
        words.push(word);
    }
    if from_right {
        words.reverse();
    }
    words
}

/// The lines of `text`, with their ends if `keep`.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let is_end = |c| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let (mut rest, mut lines) = (text, Vec::new());
    while !rest.is_empty() {
        let at = rest.find(is_end).unwrap_or(rest.len());
        let end = match &rest[at..] {
            pair if pair.starts_with("\r\n") => at + 2,
            end => at + end.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep { end } else { at }]);
        rest = &rest[end..];
    }
    lines
}

/// The characters from `start` to `end` (negative ones count from the end), and how many stand
/// before them; `None` if the first lies behind the last or behind the text.
pub(super) fn window(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = text.chars().count();
    let place = |at: i64| match usize::try_from(at) {
        Ok(at) => at,
        Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let (start, end) = (start.map_or(0, place), end.map_or(length, place).min(length));
    if start > end {
        return None;
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Some((start, &text[byte(start)..byte(end)]))
}

/// `text` filled up to `width` characters; the side says where `fill` stands.
pub(super) fn pad(text: &str, width: usize, fill: char, side: Side) -> String {
    let missing = width.saturating_sub(text.chars().count());
    // Python puts the odd one to the left where the width is odd.
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let fills = |count: usize| std::iter::repeat_n(fill, count);
    fills(left).chain(text.chars()).chain(fills(missing - left)).collect()
}

/// `text` with zeros behind its sign, `width` characters together.
pub(super) fn zero_fill(text: &str, width: usize) -> String {
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) => text.split_at(text.len() - digits.len()),
        None => ("", text),
    };
    format!("{sign}{}", pad(digits, width.saturating_sub(sign.len()), '0', Side::Left))
}

/// `text` with spaces up to the next multiple of `size` columns for each tab.
pub(super) fn expand_tabs(text: &str, size: usize) -> String {
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            _ => {
                out.push(c);
                column += 1;
            }
        }
    }
    out
}
