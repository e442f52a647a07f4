//! The patterns of `Replace` and `Split`: bounded in length, in counted repetitions and in how
//! often a backtracking search may come back.

use serde_json::Value;

/// Bytes of one pattern; published ones have up to 700.
const LENGTH: usize = 4_096;
/// Counted repetitions (`{3}`, `{1,3}`) of one pattern, together; Jais 2 has 1,026.
const COUNTS: u64 = 2_000;

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
    // Of every open group: does it hold a repetition without end?
    let mut groups = vec![false];
    let (mut counts, mut at, mut class) = (0u64, 0, 0);
    let mut after_group = None;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        let closed = std::mem::take(&mut after_group);
        match byte {
            b'\\' => {
                let next = bytes.get(at).copied().unwrap_or(b'\\');
                if class == 0 && (next.is_ascii_digit() && next != b'0' || next == b'k') {
                    return Err("a pattern refers back to what it has matched".to_owned());
                }
                at += 1;
            }
            b'[' => class += 1,
            b']' if class > 0 => class -= 1,
            _ if class > 0 => {}
            b'(' => groups.push(false),
            b')' => {
                after_group = Some(groups.pop().unwrap_or(false));
                if groups.is_empty() {
                    groups.push(false);
                }
                if let (Some(outer), Some(inner)) = (groups.last_mut(), after_group) {
                    *outer |= inner;
                }
            }
            b'*' | b'+' | b'{' => {
                let is_endless = if byte == b'{' {
                    let Some(length) = bytes[at..].iter().position(|&byte| byte == b'}') else {
                        continue;
                    };
                    let count = &expression[at..at + length];
                    let (least, most) = count.split_once(',').unwrap_or((count, count));
                    let Ok(least) = least.parse::<u64>() else { continue };
                    counts = counts.saturating_add(most.parse().unwrap_or(least).max(least));
                    at += length + 1;
                    most.is_empty()
                } else {
                    true
                };
                // `++`, `*?`: a manner, not a repetition.
                if matches!(bytes.get(at), Some(b'+' | b'?')) {
                    at += 1;
                }
                if is_endless && is_hard && closed == Some(true) {
                    return Err(
                        "a pattern repeats a repetition and looks around: its search need \
                                not end"
                            .to_owned(),
                    );
                }
                if let Some(group) = groups.last_mut() {
                    *group |= is_endless;
                }
            }
            _ => {}
        }
    }
    if counts > COUNTS {
        return Err(format!("a pattern repeats {counts} times, at most {COUNTS}"));
    }
    Ok(())
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
        assert!(check(r"\w{2001}").is_err());
        assert!(check(r"\w{1,1999}").is_ok());
    }
}
