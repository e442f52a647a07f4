//! Does the first row of a table name its columns? Not what the other rows hold.
//!
//! A header is recognized by what people write there, whatever its case; and only where its label
//! is the label of no other row, which the caller counts.

/// Words for a column of labels.
const LABEL_WORDS: &str = "annotation answer categories category class classes emotion emotions gold group intent \
    intents kind label labels outcome output polarity prediction rating result score sentiment \
    sentiments species stance stars status tag tags target targets topic topics type verdict";

/// Words that stand beside those.
const BESIDE: &str = "code expected final id index name names star the true";

/// Words for a column of texts.
const TEXT_WORDS: &str = "abstract article body claim comment comments content description document documents \
    feedback headline input inputs message messages passage phrase post premise prompt query \
    question quote review reviews sentence sentences snippet statement summary text texts \
    title tweet utterance";

fn is_among(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// Is this row of text and label the names of the two columns? `others` are the labels of the other
/// rows, or those that a label can have.
pub(super) fn is_of_texts<'l>(
    text: &str,
    label: &str,
    others: impl IntoIterator<Item = &'l str>,
) -> bool {
    if !is_name(text) || !is_name(label) {
        return false;
    }
    names_labels(label)
        || words(text)
            .iter()
            .any(|word| is_among(TEXT_WORDS, word.trim_end_matches(char::is_numeric)))
        || all_numbers(others)
}

/// Is this row of features that are all numbers, and a label, the names of the columns? So it is
/// where the label's column is named, and where the columns are counted from 0 (pandas).
pub(super) fn is_of_features<'l>(
    features: &[f32],
    label: &str,
    others: impl IntoIterator<Item = &'l str>,
) -> bool {
    let counted = features.iter().zip(0u16..).all(|(&value, i)| value == f32::from(i));
    let numbers = all_numbers(others);
    let is_next = label.parse() == Ok(features.len());
    is_name(label) && (names_labels(label) || counted || numbers) || counted && is_next && !numbers
}

/// Does this name a column of labels?
pub(super) fn names_labels(label: &str) -> bool {
    let words = words(label);
    let known = |word: &&String| is_among(LABEL_WORDS, word);
    let Some(last) = words.last() else { return false };
    let all_known = words.iter().any(|word| known(&word))
        && words.iter().all(|word| known(&word) || is_among(BESIDE, word));
    // "first class" may be a label; "travel_class" is a column.
    let is_one_word = !label.trim().contains(char::is_whitespace);
    all_known || is_one_word && (known(&last) || words.len() > 1 && words[0] == "is")
}

/// Could people call a column so? A few words that begin with a letter, no sentence.
fn is_name(text: &str) -> bool {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '"' || c == '#');
    text.chars().count() <= 40
        && text.split_whitespace().count() <= 3
        && text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || " _-/.()".contains(c))
        && !text.ends_with('.')
}

/// Are there others, and all of them whole numbers?
fn all_numbers<'l>(others: impl IntoIterator<Item = &'l str>) -> bool {
    let mut others = others.into_iter().peekable();
    others.peek().is_some() && others.all(|label| label.parse::<i64>().is_ok())
}

/// `goldLabel`, `gold_label`, `Gold label`: gold, label.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_small = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || after_small && c.is_uppercase() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().into_iter().for_each(|word| word.extend(c.to_lowercase()));
        }
        after_small = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_texts_are_told_from_examples() {
        let (words, numbers) = (["neg", "pos"], ["0", "1"]);
        for (text, label) in [
            ("Text", "Label"),
            ("text", "sentiment"),
            ("SENTENCE", "LABELS"),
            ("Review Text", "Star Rating"),
            ("customer_feedback", "gold_label"),
            ("tweet", "isToxic"),
            ("sentence1", "Urteil"),
            ("Kommentar", "is_spam"),
        ] {
            assert!(is_of_texts(text, label, words), "{text} {label}");
        }
        assert!(is_of_texts("Satz", "Urteil", numbers));
        for (text, label) in [
            ("I like this type.", "type"),
            ("good film", "first class"),
            ("good film", "fine"),
            ("red", "color"),
            ("a long text that says much of what there is to say", "label"),
            ("good", "class A"),
            ("good", "Urteil"),
        ] {
            assert!(!is_of_texts(text, label, words), "{text} {label}");
        }
        assert!(!is_of_texts("good", "2", numbers) && !is_of_texts("Text", "7", numbers));
        assert!(!is_of_texts("Satz", "Urteil", []));
    }

    #[test]
    fn headers_of_features_are_told_from_rows() {
        let (words, numbers) = (["no", "yes"], ["0", "1"]);
        for (features, label) in [
            ([0.0, 1.0], "label"),
            ([0.0, 1.0], "kind of wine"),
            ([5.5, 2.0], "Class"),
            ([0.0, 1.0], "2"),
        ] {
            assert!(is_of_features(&features, label, words), "{features:?} {label}");
        }
        assert!(is_of_features(&[3.0, 1.0], "quality", numbers));
        for (features, label) in [([1.0, 2.0], "maybe"), ([0.0, 2.0], "2"), ([0.0, 1.0], "7")] {
            assert!(!is_of_features(&features, label, words), "{features:?} {label}");
        }
        assert!(!is_of_features(&[0.0, 1.0], "2", numbers), "a row of a table of small numbers");
    }
}
