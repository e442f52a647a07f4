//! The names that somebody may have meant: for messages about names that do not exist. `std` only.

/// The names among `known` that are nearest to `wanted`, best first, at most `most`; of names that
/// are all far away the nearest one. No name comes twice.
pub(crate) fn nearest<'n>(
    wanted: &str,
    known: impl IntoIterator<Item = &'n str>,
    most: usize,
) -> Vec<&'n str> {
    let mut ranked: Vec<(usize, &str)> =
        known.into_iter().map(|name| (distance(wanted, name), name)).collect();
    ranked.sort();
    ranked.dedup();
    let near = wanted.chars().count().div_ceil(3).max(1);
    let kept = ranked.iter().filter(|(distance, _)| *distance <= near).count().max(1);
    ranked.into_iter().take(kept.min(most)).map(|(_, name)| name).collect()
}

/// `"a", "b" or "c"`: names for a sentence.
pub(crate) fn either(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// Characters to insert, delete, replace or swap with their neighbour until `a` is `b`, whatever
/// their case. Names are cut at 128 characters.
fn distance(a: &str, b: &str) -> usize {
    let letters =
        |text: &str| text.chars().take(128).flat_map(char::to_lowercase).collect::<Vec<_>>();
    let (a, b) = (letters(a), letters(b));
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("q_proj", "q_proj", 0),
            ("Q_PROJ", "q_proj", 0),
            ("q_porj", "q_proj", 1),
            ("qproj", "q_proj", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_come_first_and_far_ones_only_for_want_of_better() {
        let layers = ["q_proj", "k_proj", "down_proj", "q_proj", "lm_head"];
        assert_eq!(nearest("q_porj", layers, 3), ["q_proj", "k_proj"]);
        assert_eq!(nearest("query", layers, 3), ["q_proj"]);
        assert_eq!(nearest("x", [], 3), [""; 0]);
        assert_eq!(either(&["a", "b", "c"]), "\"a\", \"b\" or \"c\"");
    }
}
