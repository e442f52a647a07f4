//! What a tokenizer's post-processor puts around a text, read off its JSON. Runs no tokenizer.

use serde_json::Value;

/// The token that a tokenizer's post-processor puts in front of a single text, or what is wrong
/// with it. Tokens at other places are refused: they would be missing from every prompt.
pub(crate) fn leading_token(post: &Value) -> Result<Option<u32>, String> {
    if post.is_null() {
        return Ok(None);
    }
    let steps = post["processors"].as_array().map_or(std::slice::from_ref(post), Vec::as_slice);
    let mut leading = None;
    for step in steps {
        match step["type"].as_str() {
            Some("ByteLevel") => continue,
            Some("TemplateProcessing") => {}
            other => {
                return Err(format!(
                    "{} is not supported; ByteLevel and TemplateProcessing are",
                    other.unwrap_or("a step without type")
                ));
            }
        }
        let pieces = step["single"].as_array().map_or(&[][..], Vec::as_slice);
        let text =
            pieces.iter().position(|piece| !piece["Sequence"].is_null()).unwrap_or(pieces.len());
        if text + 1 < pieces.len() {
            return Err("a token behind every text is not supported".into());
        }
        for piece in &pieces[..text] {
            let name = piece["SpecialToken"]["id"].as_str().unwrap_or_default();
            match step["special_tokens"][name]["ids"]
                .as_array()
                .map(|ids| ids.iter().map(id).collect::<Vec<_>>())
                .as_deref()
            {
                Some([Some(id)]) if leading.is_none() => leading = Some(*id),
                _ => {
                    return Err(
                        "more than one token in front of every text is not supported".into()
                    );
                }
            }
        }
    }
    Ok(leading)
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}
