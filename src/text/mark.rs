//! The byte order mark that some editors put in front of UTF-8: it is no part of a text.

/// `bytes` without it.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::without_mark;

    #[test]
    fn a_mark_goes_from_the_beginning_only() {
        let found = ["\u{feff}a\u{feff}", "a", ""].map(|text| without_mark(text.as_bytes()));
        assert_eq!(found, ["a\u{feff}".as_bytes(), b"a", b""]);
    }
}
