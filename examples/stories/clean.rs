//! What is kept of the texts that the chat model wrote: whole sentences that fit, no circles, and
//! of a style only what shows it.

/// The most bytes of a text with its title: with the begin and end tokens it fills the embedded
/// model's context.
pub const LONGEST: usize = 126;

/// The fewest bytes behind a title.
const SHORTEST: usize = 24;

/// Words of which a text in pirate talk has at least [`PIRATE`] different ones.
const PIRATE_WORDS: [&str; 9] =
    ["arr", "matey", "aye", "ye", "me", "be", "treasure", "ship", "sea"];
const PIRATE: usize = 3;

/// What the lines of a note begin with.
const NOTES: [&str; 3] = ["- who: ", "- what: ", "- end: "];

/// A text of a kind with its title in front, as it is learnt; nothing if it is no good.
pub fn clean(kind: &str, title: &str, text: &str) -> Option<String> {
    if kind == "notes" {
        return notes(title, text);
    }
    let line = text.lines().next()?.trim();
    let kept = whole_sentences(line, LONGEST.checked_sub(title.len() + 1)?);
    let is_good = kept.len() >= SHORTEST
        && is_plain(kept)
        && is_varied(kept)
        && (kind != "pirate" || is_pirate(kept));
    is_good.then(|| format!("{title} {kept}"))
}

fn notes(title: &str, text: &str) -> Option<String> {
    let mut kept = title.to_owned();
    let mut lines = text.lines();
    for begin in NOTES {
        let line = lines.next()?.trim_end();
        let rest = line.strip_prefix(begin)?;
        if rest.len() < 3 || rest.split(' ').count() > 7 || !is_plain(rest) {
            return None;
        }
        kept = kept + "\n" + line;
    }
    (kept.len() <= LONGEST && is_varied(&kept)).then_some(kept)
}

/// The longest beginning of at most `most` bytes that ends a sentence.
fn whole_sentences(text: &str, most: usize) -> &str {
    let mut end = 0;
    for (i, c) in text.char_indices() {
        let after = &text[i + c.len_utf8()..];
        let closing = usize::from(after.starts_with('"'));
        let is_end = matches!(c, '.' | '!' | '?')
            && (after.len() == closing || after[closing..].starts_with(' '));
        if is_end && i + 1 + closing <= most {
            end = i + 1 + closing;
        }
    }
    &text[..end]
}

/// Letters, spaces and the signs of simple prose.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphabetic() || " .,!?'\"-".contains(c))
        && text.matches('"').count().is_multiple_of(2)
}

/// No three words in a row twice.
fn is_varied(text: &str) -> bool {
    let words: Vec<String> = words(text).collect();
    let mut groups: Vec<&[String]> = words.windows(3).collect();
    groups.sort_unstable();
    groups.windows(2).all(|pair| pair[0] != pair[1])
}

fn is_pirate(text: &str) -> bool {
    let words: Vec<String> = words(text).collect();
    PIRATE_WORDS.iter().filter(|pirate| words.iter().any(|word| word == *pirate)).count() >= PIRATE
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
}
