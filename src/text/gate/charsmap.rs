//! The table of a `Precompiled` normalizer (SentencePiece): base64 of a length, a trie of 32-bit
//! units, and the replacements, each ended by a NUL.
//!
//! The library indexes the trie with whatever the table says. So every unit that any text can
//! reach is walked once here.

/// Bytes of a decoded table; SentencePiece's own have 300,000.
const MOST: usize = 4 << 20;
/// Bytes of a replacement; SentencePiece's own have up to 33.
const REPLACEMENT: usize = 256;

/// How many bytes one byte of text can become, or why the table is refused.
pub(super) fn growth(base64: &str) -> Result<usize, String> {
    let table = decode(base64)?;
    let (trie, texts) = split(&table)?;
    let texts =
        std::str::from_utf8(texts).map_err(|_| "its replacements are not UTF-8".to_owned())?;
    let unit = |index: usize| {
        trie.get(4 * index..4 * index + 4)
            .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
            .ok_or_else(|| format!("its trie is broken: unit {index} of {}", trie.len() / 4))
    };
    let mut growth = 1;
    let mut seen = vec![false; trie.len() / 4];
    let mut open = vec![offset(unit(0)?)];
    while let Some(node) = open.pop() {
        if std::mem::replace(
            seen.get_mut(node).ok_or("its trie is broken: a node is outside")?,
            true,
        ) {
            continue;
        }
        for byte in 1..=255 {
            let found = unit(node ^ byte)?;
            if found & (1 << 31 | 0xff) != byte {
                continue;
            }
            let child = node ^ byte ^ offset(found);
            if found >> 8 & 1 == 1 {
                let start = unit(child)? & ((1 << 31) - 1);
                let rest = texts.get(start..).ok_or("a replacement begins outside its table")?;
                let length = rest.find('\0').unwrap_or(rest.len());
                if length > REPLACEMENT {
                    return Err(format!("a replacement has {length} bytes, at most {REPLACEMENT}"));
                }
                growth = growth.max(length);
            }
            open.push(child);
        }
    }
    Ok(growth)
}

/// The trie's units as bytes, and the replacements.
fn split(table: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let (length, rest) = table.split_first_chunk().ok_or("it is empty")?;
    let length = u32::from_le_bytes(*length) as usize / 4 * 4;
    if length == 0 || length > rest.len() {
        return Err(format!("its trie has {length} bytes of {}", rest.len()));
    }
    Ok(rest.split_at(length))
}

fn offset(unit: usize) -> usize {
    unit >> 10 << ((unit & 1 << 9) >> 6)
}

/// Base64 with padding, as the library wants it.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    if text.len() / 4 * 3 > MOST {
        return Err(format!("it has {} bytes, at most {MOST}", text.len() / 4 * 3));
    }
    let wrong = || "it is not base64".to_owned();
    let kept = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - kept.len() > 2 {
        return Err(wrong());
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for c in kept.bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(wrong()),
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(bytes)
}
