//! One record of a file: a line of JSON or TSV, a row of CSV. Not what speaks against the example,
//! and not its tokens.
//!
//! Errors are sentences without the place; whoever reads the file knows the line.

use serde_json::{Map, Value};

use crate::nearest::{either, nearest};
use crate::text::Message;

use super::example::{Example, one_line};
use super::{Task, header};

/// A line of JSON: an object with the keys that the task asks for, and no others.
pub(super) fn from_json(line: &str, task: Task) -> Result<Example, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| {
        let (column, error) = (error.column(), error.to_string());
        let what = error.split(" at line ").next().unwrap_or_default();
        format!("not JSON: {what} (column {column})")
    })?;
    let Value::Object(object) = value else {
        return Err("a JSON object was expected, {\"text\": …}".into());
    };
    match task {
        Task::Classify => {
            let (text, label) = (string(&object, "text")?, label(&object)?);
            only(&object, &["text", "label"], "")?;
            Ok(Example::Labelled { text, label })
        }
        Task::LanguageModel if object.contains_key("messages") => {
            let record = messages(&object)?;
            only(&object, &["messages"], "")?;
            Ok(record)
        }
        Task::LanguageModel
            if object.contains_key("prompt") || object.contains_key("completion") =>
        {
            let (prompt, completion) = (string(&object, "prompt")?, string(&object, "completion")?);
            only(&object, &["prompt", "completion"], "")?;
            Ok(Example::Completion { prompt, completion })
        }
        Task::LanguageModel if object.contains_key("text") => {
            let text = string(&object, "text")?;
            only(&object, &["text"], "")?;
            Ok(Example::Text(text))
        }
        Task::LanguageModel => Err(format!(
            "\"text\", \"prompt\" and \"completion\", or \"messages\" was expected, found {}",
            keys(&object)
        )),
    }
}

/// Every key that some record has.
const KEYS: [&str; 5] = ["text", "label", "prompt", "completion", "messages"];

/// Refuses keys beside `known`, unless they are null: what they say would not be learnt. `place` is
/// where the object is.
fn only(object: &Map<String, Value>, known: &[&str], place: &str) -> Result<(), String> {
    let is_unknown =
        |(key, value): &(&String, &Value)| !known.contains(&key.as_str()) && !value.is_null();
    let Some((key, _)) = object.iter().find(is_unknown) else { return Ok(()) };
    let expected = known.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" and ");
    let hint = match (key.as_str(), known) {
        ("label", ["text"]) => "labels are learnt with the task classify".into(),
        (key, [_, ..]) if place.is_empty() && KEYS.contains(&key) => {
            "it belongs to another kind of record".into()
        }
        (key, known) => {
            let near = nearest(key, known.iter().copied(), 1);
            format!("the nearest is {}; take out what is not to be learnt", either(&near))
        }
    };
    Err(format!("{place}unknown key {key:?} beside {expected}: {hint}"))
}

/// A line `text<TAB>label`.
pub(super) fn from_tsv(line: &str) -> Result<Example, String> {
    match line.split('\t').collect::<Vec<_>>()[..] {
        [text, label] => Ok(Example::Labelled { text: text.to_owned(), label: label.to_owned() }),
        [_] => Err("no tab: text<TAB>label was expected".into()),
        ref columns => Err(format!("{} tabs, 1 was expected: text<TAB>label", columns.len() - 1)),
    }
}

/// A row of CSV: numbers, last the label.
pub(super) fn from_csv(row: &csv::ByteRecord) -> Result<Example, String> {
    let column = |i: usize, field: &[u8]| {
        std::str::from_utf8(field)
            .map(|text| text.trim().to_owned())
            .map_err(|_| format!("column {} is not UTF-8", i + 1))
    };
    let mut fields =
        row.iter().enumerate().map(|(i, field)| column(i, field)).collect::<Result<Vec<_>, _>>()?;
    let label = fields.pop().unwrap_or_default();
    if fields.is_empty() {
        return Err("1 column: features and, last, a label were expected".into());
    }
    let number = |(i, field): (usize, &String)| match field.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        Ok(_) => Err(format!("column {} is {field:?}, which is not finite in f32", i + 1)),
        Err(_) => Err(format!("column {} is {field:?}, a number was expected", i + 1)),
    };
    let values = fields.iter().enumerate().map(number).collect::<Result<Vec<_>, _>>()?;
    one_line(&label)?;
    if label.is_empty() {
        return Err(format!("column {} is empty, the label was expected", fields.len() + 1));
    }
    Ok(Example::Features { values, label })
}

/// Does this row name columns? So it is if none of its features is a number, or if some are not and
/// its last column is named as labels are.
pub(super) fn is_header(row: &csv::ByteRecord) -> bool {
    let text = |field| std::str::from_utf8(field).unwrap_or_default().trim();
    let is_number = |field| text(field).parse::<f32>().is_ok_and(f32::is_finite);
    let features = || row.iter().take(row.len().saturating_sub(1));
    let numbers = features().filter(|field| is_number(field)).count();
    let is_named = || row.iter().next_back().is_some_and(|label| header::names_labels(text(label)));
    row.len() > 1 && (numbers == 0 || numbers < row.len() - 1 && is_named())
}

fn string(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("{key:?} is {}, a string was expected", kind(other))),
        None => Err(format!("{key:?} is missing, found {}", keys(object))),
    }
}

/// A label is a string, a whole number or a truth value.
fn label(object: &Map<String, Value>) -> Result<String, String> {
    match object.get("label") {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        Some(Value::Bool(truth)) => Ok(truth.to_string()),
        Some(other) => {
            Err(format!("\"label\" is {}, a string or a whole number was expected", kind(other)))
        }
        None => Err(format!("\"label\" is missing, found {}", keys(object))),
    }
}

fn messages(object: &Map<String, Value>) -> Result<Example, String> {
    let listed =
        object.get("messages").and_then(Value::as_array).filter(|listed| !listed.is_empty());
    let listed = listed.ok_or(
        "\"messages\" is no list of messages, [{\"role\": …, \"content\": …}, …] was expected",
    )?;
    let message = |(i, message): (usize, &Value)| {
        let text = |key: &str| {
            let text = message.get(key).and_then(Value::as_str);
            text.map(str::to_owned)
                .ok_or_else(|| format!("message {} has no string {key:?}", i + 1))
        };
        let message_of = Message { role: text("role")?, content: text("content")? };
        if let Value::Object(object) = message {
            only(object, &["role", "content"], &format!("message {}: ", i + 1))?;
        }
        Ok(message_of)
    };
    listed.iter().enumerate().map(message).collect::<Result<_, String>>().map(Example::Chat)
}

fn keys(object: &Map<String, Value>) -> String {
    let names: Vec<String> = object.keys().map(|key| format!("{key:?}")).collect();
    if names.is_empty() { "no key".into() } else { names.join(", ") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
