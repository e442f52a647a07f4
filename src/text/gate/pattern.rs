//! The patterns of `Replace` and `Split`: bounded in length, in counted repetitions and in how
//! often a backtracking search may come back.

use serde_json::Value;

/// Bytes of one pattern; published ones have up to 700.
const LENGTH: usize = 4_096;
/// Counted repetitions (`{3}`, `{1,3}`) of one pattern, together, those of groups as often as the
/// group is repeated; Jais 2 has 1,026.
const COUNTS: u64 = 2_000;
/// Repetitions without end of one pattern that looks around; published ones have up to 16.
const ENDLESS: usize = 64;

/// An open group: does it hold a repetition without end, and how many counted ones?
#[derive(Debug, Clone, Copy, Default)]
struct Group {
    is_endless: bool,
    counts: u64,
}

impl Group {
    /// Takes in a group that lies in this one `times` times.
    fn add(&mut self, inner: Self, times: u64) {
        self.is_endless |= inner.is_endless;
        self.counts = self.counts.saturating_add(inner.counts.saturating_mul(times));
    }
}

/// The least bytes that a match of `pattern` has: 0 for regular expressions, which may match
/// nothing.
pub(super) fn shortest(pattern: &Value) -> Result<usize, String> {
    match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
        (Some(""), None) | (None, Some("")) => {
            Err("an empty pattern matches between all letters".to_owned())
        }
        (Some(text), None) | (None, Some(text)) if text.len() > LENGTH => {
            Err(format!("a pattern has {} bytes, at most {LENGTH}", text.len()))
        }
        (Some(text), None) => Ok(text.len()),
        (None, Some(expression)) => check(expression).map(|()| 0),
        _ => Err("a pattern is a String or a Regex".to_owned()),
    }
}

fn check(expression: &str) -> Result<(), String> {
    let bytes = expression.as_bytes();
    let searches_back = ["(?=", "(?!", "(?<=", "(?<!", "(?>"];
    let is_hard = searches_back.iter().any(|start| expression.contains(start));
    let (mut outer, mut groups) = (Group::default(), Vec::new());
    let (mut at, mut class, mut endless) = (0, 0, 0);
    let mut after_group: Option<Group> = None;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let closed = after_group.take();
        let count = match byte {
            b'{' if class == 0 => counted(&expression[at..]),
            _ => None,
        };
        if let (Some(inner), None) = (closed, count) {
            outer.add(inner, 1);
        }
        match byte {
            b'\\' => at += escaped(&bytes[at..], class > 0)?,
            b'[' => class += 1,
            b']' if class > 0 => class -= 1,
            _ if class > 0 => {}
            b'(' => groups.push(std::mem::take(&mut outer)),
            b')' => {
                let inner = std::mem::replace(&mut outer, groups.pop().unwrap_or_default());
                after_group = Some(inner);
            }
            b'{' if count.is_none() => {}
            b'*' | b'+' | b'{' => {
                let (times, length, is_endless) = count.unwrap_or((0, 0, true));
                at += length;
                if let Some(inner) = closed.filter(|_| count.is_some()) {
                    outer.add(inner, times.max(1));
                }
                outer.add(Group { is_endless, counts: times }, 1);
                endless += usize::from(is_endless);
                // `++`, `*?`: a manner, not a repetition.
                if matches!(bytes.get(at), Some(b'+' | b'?')) {
                    at += 1;
                }
                if is_endless && is_hard && closed.is_some_and(|group| group.is_endless) {
                    return Err(
                        "a pattern repeats a repetition and looks around: its search need \
                                not end"
                            .to_owned(),
                    );
                }
            }
            _ => {}
        }
    }
    for group in groups.into_iter().chain(after_group) {
        outer.add(group, 1);
    }
    let endless = if is_hard { endless } else { 0 };
    check_totals(outer.counts, endless)
}

/// The length of what stands behind a backslash; an error if it refers back.
fn escaped(bytes: &[u8], is_in_class: bool) -> Result<usize, String> {
    let next = bytes.first().copied().unwrap_or(b'\\');
    if !is_in_class && (next.is_ascii_digit() && next != b'0' || next == b'k') {
        return Err("a pattern refers back to what it has matched".to_owned());
    }
    // `\x{100}`, `\p{L}`: a name, not a repetition.
    let name = matches!(next, b'p' | b'P' | b'x' | b'u') && bytes.get(1) == Some(&b'{');
    let end = bytes.iter().position(|&byte| byte == b'}').filter(|_| name);
    Ok(end.map_or(1, |end| end + 1))
}

/// Refuses more than is allowed of counted repetitions, and of those without end where the search
/// may come back.
fn check_totals(counts: u64, endless: usize) -> Result<(), String> {
    if counts > COUNTS {
        return Err(format!("a pattern repeats {counts} times, at most {COUNTS}"));
    }
    if endless > ENDLESS {
        return Err(format!(
            "a pattern looks around and has {endless} repetitions without end, at most {ENDLESS}"
        ));
    }
    Ok(())
}

/// Of a counted repetition behind its `{`: how often at most, the bytes up to its end, and whether
/// it has none.
fn counted(text: &str) -> Option<(u64, usize, bool)> {
    let count = &text[..text.find('}')?];
    let (least, most) = count.split_once(',').unwrap_or((count, count));
    let least = least.parse::<u64>().ok()?;
    Some((most.parse().unwrap_or(least).max(least), count.len() + 1, most.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_published_tokenizers_pass() {
        for pattern in [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
            r"\d{1,3}(?=(?:\d{3})*\b)",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r" {2,}",
            r"[\[\]]+|[^(\s|[.,!?…。，、।۔،])]+",
            r"\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
        ] {
            assert_eq!(check(pattern), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn patterns_that_need_not_end_are_refused() {
        for pattern in [r"(a+)+(?!b)", r"((?=x)a*|b)*c", r"(?:(?:a{2,})x?){3,}(?<=z)", r"(a)\1"] {
            assert!(check(pattern).is_err(), "{pattern}");
        }
        // What lies in a group counts as often as the group; alternatives are tried one by one.
        assert!(check(r"(\w{50}){50}").is_err() && check(r"((\w{20}){20}x){20}").is_err());
        assert!(check(r"(\w{30}){30}").is_ok() && check(r"(a{3}|b{3})+").is_ok());
        assert!(check(&(r"\w+|".repeat(700) + "(?!a)")).is_err());
        assert!(check(r"\w{2001}").is_err());
        assert!(check(r"\w{1,1999}").is_ok());
    }
}
