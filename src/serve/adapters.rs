//! Models as OpenAI lists them, and adapters loaded and unloaded while the server runs, in vLLM's
//! words, with mistral.rs' generations.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{self, Path as InPath};
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::State;
use super::body::Body;
use super::fields::Fields;
use super::refusal::Refusal;
use crate::engine::{Expected, Known};

/// Bytes of an adapter's name.
const NAME: usize = 128;

/// The bases and all adapters.
pub(super) async fn models(extract::State(state): extract::State<Arc<State>>) -> Json<Value> {
    let adapters = state.registry.known();
    let bases = state.bases().map(|(name, context)| base_card(&state, name, context));
    let cards = adapters.iter().map(|known| card(&state, known));
    Json(json!({ "object": "list", "data": bases.chain(cards).collect::<Vec<_>>() }))
}

/// One of them.
pub(super) async fn model(
    extract::State(state): extract::State<Arc<State>>,
    InPath(id): InPath<String>,
) -> Result<Json<Value>, Refusal> {
    if let Some((name, context)) = state.bases().find(|&(name, _)| name == id) {
        return Ok(Json(base_card(&state, name, context)));
    }
    let known = state.registry.known();
    let found = known.iter().find(|known| known.name == id);
    found.map(|known| Json(card(&state, known))).ok_or_else(|| Refusal::unknown_model(&id))
}

fn base_card(state: &State, name: &str, context: usize) -> Value {
    json!({
        "id": name, "object": "model", "created": state.started, "owned_by": "lowrank",
        "root": name, "parent": null, "max_model_len": context,
    })
}

/// The parent is the base. Of two, it is known when the adapter was read.
fn card(state: &State, known: &Known) -> Value {
    let mut bases = state.bases().map(|(name, _)| name);
    let parent = match (bases.next(), bases.next()) {
        (Some(only), None) => Some(only),
        _ => state.base_of(known),
    };
    json!({
        "id": known.name, "object": "model", "created": state.started, "owned_by": "lowrank",
        "root": known.name, "parent": parent, "adapter_generation": known.generation,
    })
}

/// Names with their generations.
pub(super) async fn list(extract::State(state): extract::State<Arc<State>>) -> Json<Value> {
    let one = |known: Known| {
        json!({
            "name": known.name, "generation": known.generation, "resident": known.is_resident,
        })
    };
    let adapters: Vec<Value> = state.registry.known().into_iter().map(one).collect();
    Json(json!({ "object": "list", "data": adapters }))
}

/// `{lora_name, lora_path, load_inplace?, expected_generation?}`: a name that is taken is replaced
/// only in place.
pub(super) async fn load(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<String, Refusal> {
    let name = state.work(move |state| load_now(state, &body)).await?;
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

fn load_now(state: &State, body: &[u8]) -> Result<String, Refusal> {
    let mut fields = Fields::read(body)?;
    let name = fields.required("lora_name")?;
    check_name(state, &name)?;
    let path = path(state, &fields.required("lora_path")?)?;
    let in_place = fields.flag("load_inplace")?;
    let expected = match fields.count("expected_generation", 0..=u64::MAX)? {
        Some(0) => Expected::Absent,
        Some(generation) => Expected::Generation(generation),
        None if in_place => Expected::Any,
        None => Expected::Absent,
    };
    fields.finish()?;
    state.registry.load(name.as_str(), path, expected)?;
    state.unloaded().remove(&name);
    Ok(name)
}

/// `{lora_name, expected_generation?}`.
pub(super) async fn unload(
    extract::State(state): extract::State<Arc<State>>,
    Body(body): Body,
) -> Result<String, Refusal> {
    let mut fields = Fields::read(&body)?;
    let name = fields.required("lora_name")?;
    let expected = fields.count("expected_generation", 0..=u64::MAX)?;
    fields.take("lora_int_id");
    fields.finish()?;
    state.registry.unload(&name, expected.map_or(Expected::Any, Expected::Generation))?;
    state.unloaded().insert(name.clone());
    Ok(format!("Success: LoRA adapter '{name}' removed successfully."))
}

fn check_name(state: &State, name: &str) -> Result<(), Refusal> {
    let is_good = name.trim() == name
        && !matches!(name, "" | "." | "..")
        && name.len() <= NAME
        && !name.chars().any(char::is_control);
    if is_good && !state.is_base(name) {
        return Ok(());
    }
    let reason = format!(
        "lora_name: 1 to {NAME} bytes were expected, without space around them, and not the base's \
         own name"
    );
    Err(Refusal::field("lora_name", reason))
}

/// The place of an adapter in the folder of adapters.
fn path(state: &State, path: &str) -> Result<PathBuf, Refusal> {
    let Some(folder) = &state.folder else {
        let reason = "this server has no folder of adapters: start it with --adapters DIR";
        return Err(Refusal::new(StatusCode::FORBIDDEN, "no_adapter_folder", reason));
    };
    let missing = "lora_path: there is no such adapter in the folder of adapters";
    folder.inside(path).ok_or_else(|| Refusal::field("lora_path", missing))
}
