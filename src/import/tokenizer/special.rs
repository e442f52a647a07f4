//! Special and added tokens beside tokenizer.json, merged as transformers merges them:
//! tokenizer_config.json, and where it has no `added_tokens_decoder` also special_tokens_map.json
//! and added_tokens.json.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::added::{Added, Token};
use super::class::Class;
use crate::file::FileError;

use super::super::json::Json;

/// The roles that every tokenizer has, in the order in which missing ones are added.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The extra tokens of `CamembertTokenizer` where the folder names none.
const UNUSED: [&str; 3] = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"];

/// The tokens that the folder's files name.
#[derive(Debug)]
pub(super) struct Special {
    /// By role, in order: those of every tokenizer, then the model's own (`image_token`).
    named: Vec<(String, Token)>,
    /// Without a role.
    extra: Vec<Token>,
    /// `added_tokens_decoder`, by id; the ids only order them.
    decoder: BTreeMap<i64, Token>,
}

impl Special {
    /// Merges the older files into `settings`, tokenizer_config.json, and reads all tokens.
    pub(super) fn read(
        directory: &Path,
        class: Class,
        file: &Json,
        settings: &mut Json,
    ) -> Result<Self, FileError> {
        rename_additional(&mut settings.fields);
        let decoder = match settings.object("added_tokens_decoder")? {
            Some(stated) => ids_to_tokens(&stated)?,
            None if settings.fields.contains_key("added_tokens_decoder") => BTreeMap::new(),
            None => older_files(directory, file, settings)?,
        };
        let known = |token: Token| {
            decoder
                .values()
                .rev()
                .find(|known| known.content == token.content)
                .cloned()
                .unwrap_or(token)
        };
        let mut named = Vec::new();
        for role in ROLES {
            if settings.fields.contains_key(role) {
                let token = settings.get(role).map(|value| parse(settings, role, value));
                named.extend(token.transpose()?.map(|token| (role.to_owned(), known(token))));
            } else if let Some((_, text)) =
                class.default_tokens().iter().find(|(key, _)| *key == role)
            {
                named.push((role.to_owned(), Token::special(*text)));
            }
        }
        let is_plain = |value: Option<&Value>| value.is_none_or(Value::is_string);
        if class == Class::Camembert && is_plain(settings.get("mask_token")) {
            let mask = |(role, token): &&mut (String, Token)| {
                role == "mask_token" && !decoder.values().any(|t| t.content == token.content)
            };
            named.iter_mut().filter(mask).for_each(|(_, token)| token.strip_left());
        }
        named.extend(own_roles(settings)?);
        let extra = match settings.get("extra_special_tokens") {
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| parse(settings, "extra_special_tokens", item))
                .collect::<Result<_, _>>()?,
            None if class == Class::Camembert => UNUSED.map(Token::special).to_vec(),
            None | Some(Value::Object(_)) => Vec::new(),
            Some(other) => {
                let reason = format!("a list of tokens was expected, found {other}");
                return Err(settings.error("extra_special_tokens", reason));
            }
        };
        Ok(Self { named, extra, decoder })
    }

    /// The text of the token with this role.
    pub(super) fn text(&self, role: &str) -> Option<&str> {
        self.named.iter().find(|(key, _)| key == role).map(|(_, token)| token.content.as_str())
    }

    /// As [`text`](Self::text), for a class that cannot do without.
    pub(super) fn required(&self, role: &str, settings: &Json) -> Result<&str, FileError> {
        self.text(role).ok_or_else(|| {
            settings.error(role, "null is not supported: the tokenizer's class needs the token")
        })
    }

    /// Adds what is missing, as the constructor of every tokenizer does, and gives special tokens
    /// the flags that `Qwen2Tokenizer` gives them.
    pub(super) fn add_to(&self, added: &mut Added<'_>, class: Class) {
        let mut missing: Vec<Token> =
            self.decoder.values().filter(|token| !added.has_exactly(token)).cloned().collect();
        let named = || self.named.iter().map(|(_, token)| token);
        let mut known: HashSet<String> =
            missing.iter().map(|token| token.content.clone()).collect();
        for token in named().chain(&self.extra) {
            if !added.has(&token.content) && known.insert(token.content.clone()) {
                missing.push(token.clone());
            }
        }
        let special: HashSet<&str> = named().map(|token| token.content.as_str()).collect();
        for token in &mut missing {
            token.special |= special.contains(token.content.as_str());
        }
        added.add(missing);
        if class == Class::Qwen2 {
            let texts = named().chain(&self.extra).map(|token| token.content.clone());
            added.add(texts.map(Token::special));
        }
    }
}

fn parse(json: &Json, key: &str, value: &Value) -> Result<Token, FileError> {
    Token::parse(value).map_err(|reason| json.error(key, reason))
}

/// `additional_special_tokens` is the older name of `extra_special_tokens`.
fn rename_additional(fields: &mut Map<String, Value>) {
    let is_empty = fields.get("extra_special_tokens").is_none_or(super::super::json::is_neutral);
    if is_empty && let Some(tokens) = fields.remove("additional_special_tokens") {
        fields.insert("extra_special_tokens".into(), tokens);
    }
}

/// Id to token with flags.
fn ids_to_tokens(json: &Json) -> Result<BTreeMap<i64, Token>, FileError> {
    let mut tokens = BTreeMap::new();
    for (key, value) in &json.fields {
        let id = key.trim().parse().map_err(|_| json.error(key, "a token id was expected"))?;
        if !value.is_object() {
            let reason = format!("an object with \"content\" was expected, found {value}");
            return Err(json.error(key, reason));
        }
        tokens.insert(id, parse(json, key, value)?);
    }
    Ok(tokens)
}

/// Roles of the model's own: every other key that ends in `_token`, and a dictionary of extra ones.
fn own_roles(settings: &Json) -> Result<Vec<(String, Token)>, FileError> {
    let mut roles = Vec::new();
    let is_own = |key: &str| key.ends_with("_token") && !ROLES.contains(&key);
    for (key, value) in settings.fields.iter().filter(|(key, _)| is_own(key)) {
        if value.is_string() || value["content"].is_string() {
            roles.push((key.clone(), parse(settings, key, value)?));
        }
    }
    for key in ["model_specific_special_tokens", "extra_special_tokens"] {
        let Some(Value::Object(tokens)) = settings.get(key) else { continue };
        for (role, value) in tokens {
            roles.push((role.clone(), parse(settings, &format!("{key}.{role}"), value)?));
        }
    }
    Ok(roles)
}

/// special_tokens_map.json overrules `settings`; added_tokens.json and tokenizer.json say which
/// tokens there are.
fn older_files(
    directory: &Path,
    file: &Json,
    settings: &mut Json,
) -> Result<BTreeMap<i64, Token>, FileError> {
    if let Some(map) = Json::read_if_there(&directory.join("special_tokens_map.json"))? {
        for (key, value) in map.fields {
            settings.fields.insert(key, as_special(value));
        }
        rename_additional(&mut settings.fields);
    }
    let mut tokens = BTreeMap::new();
    if let Some(json) = Json::read_if_there(&directory.join("added_tokens.json"))? {
        let special = special_texts(settings);
        for (text, id) in &json.fields {
            let id = id
                .as_i64()
                .ok_or_else(|| json.error(text, format!("a token id was expected, found {id}")))?;
            tokens.insert(id, Token::plain(text, special.contains(text.as_str())));
        }
    }
    for entry in file.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
        let id = entry["id"].as_i64().ok_or_else(|| {
            file.error("added_tokens", format!("an entry with an id was expected, found {entry}"))
        })?;
        tokens.insert(id, parse(file, "added_tokens", entry)?);
    }
    Ok(tokens)
}

/// Tokens of special_tokens_map.json are special, also where they say nothing of it.
fn as_special(mut value: Value) -> Value {
    match &mut value {
        Value::Object(token) if token.contains_key("content") => {
            token.insert("special".into(), true.into());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = as_special(item.take())),
        _ => {}
    }
    value
}

/// The texts of the special tokens of every tokenizer, and of the extra ones.
fn special_texts(settings: &Json) -> HashSet<&str> {
    let named = ROLES.iter().filter_map(|role| settings.get(role));
    let extra = settings.get("extra_special_tokens").and_then(Value::as_array);
    let values = named.chain(extra.into_iter().flatten());
    values.filter_map(|value| value.as_str().or_else(|| value["content"].as_str())).collect()
}
