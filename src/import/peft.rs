//! PEFT adapter directories, LoRA and IA3: adapter_config.json (see `peft_config`) and
//! adapter_model.safetensors.
//!
//! Which layers are adapted is read from the tensors, not from `target_modules`; what that names
//! beyond them is told (see `peft_targets`). Every tensor is used or refused by name. Factors keep their type: f16 stays f16, f32 and bf16 become f32,
//! exactly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::json::{Json, folder_name};
use super::peft_base::check_base;
use super::peft_classifier::{self, Head};
use super::peft_config::Settings;
use super::peft_files::{MLX, refuse_pickle, weights};
use super::peft_names::{Named, Role, named};
use super::peft_targets;
use super::safetensors::{Shards, Stored};
use crate::adapter::{
    AdapterBuilder, Base, FactorFormat, Numbers, Orientation, Place, TargetParts,
};
use crate::error::RootKind;
use crate::file::FileError;
use crate::model::bert::Architecture;
use crate::model::bert::import::head;

/// How an adapter is imported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterOptions {
    /// The adapter's name; the folder's if `None`.
    pub name: Option<String>,
    /// How factors are stored.
    pub format: FactorFormat,
}

/// Reads the adapter in `directory` for `base`; of the directory of a model that classifies texts
/// its classifier, for the base that was imported from the same. What there is to say of it (modules that
/// `target_modules` names and the file does not have, label names that do not fit) is in
/// [`AdapterBuilder::notes`].
///
/// # Errors
/// A [`FileError`] that names the file and the key or tensor.
pub fn import_peft(
    directory: impl AsRef<Path>,
    base: &dyn Base,
    options: &AdapterOptions,
) -> Result<AdapterBuilder, FileError> {
    let directory = directory.as_ref();
    let config = directory.join("adapter_config.json");
    if base.root().is_encoder() && !config.exists() && directory.join("config.json").exists() {
        return head::import(directory, base, options);
    }
    let file = weights(directory)?;
    let json = Json::read(&config)?;
    // Before anything is said of weights that are not there.
    Settings::read(&json, Head::of(base.root()))?;
    refuse_pickle(directory, &file)?;
    let shards = Shards::open(std::slice::from_ref(&file))?;
    let name = options.name.clone().or_else(|| folder_name(directory)).unwrap_or_default();
    read(&json, &file, &shards, base, name, options.format)
}

/// The adapter that a configuration and the tensors of `file` say, for `base`.
pub(super) fn read(
    json: &Json,
    file: &Path,
    shards: &Shards,
    base: &dyn Base,
    name: String,
    format: FactorFormat,
) -> Result<AdapterBuilder, FileError> {
    let head = Head::of(base.root());
    let settings = Settings::read(json, head)?;
    let mut builder = AdapterBuilder::new(name, settings.method());
    (builder.format, builder.facts) = (format, settings.facts.clone());
    let sites = sites(base);
    let (modules, classifier) = group(shards, file, head)?;
    for (module, tensors) in modules {
        let path = path_of(&module, base, &sites);
        let unknown = "the base has no such linear layer or embedding; was the adapter made for another model?";
        let site = *sites.get(&path).ok_or_else(|| FileError::format(file, &module, unknown))?;
        let target =
            Module { file, path: &module, site, tensors, settings: &settings, base }.target()?;
        if builder.targets.insert(Place(site), target).is_some() {
            return Err(FileError::format(
                file,
                &module,
                "the file has this module twice, with and without the model's prefix",
            ));
        }
    }
    if let Some((classifier, pooler)) = peft_classifier::read(file, &classifier, &settings, base)? {
        (builder.classifier, builder.pooler) = (Some(classifier), pooler);
    }
    check_tying(&builder, &settings, base, file)?;
    if let Some(classifier) = &mut builder.classifier {
        match peft_classifier::names(json, classifier.labels.len()) {
            Ok(Some(names)) => classifier.labels = names,
            Ok(None) => {}
            Err(note) => builder.notes.push(note),
        }
    }
    let has = |site: u32| builder.targets.contains_key(&Place(site));
    peft_targets::check(json, base, &sites, has, file)?;
    let is_classifier = builder.classifier.is_some();
    builder.notes.extend(peft_targets::missing(json, base, &sites, is_classifier, has));
    Ok(builder)
}

/// The path in the base of a module of the file: task models put their encoder behind a prefix,
/// decoders without head have none.
fn path_of(module: &str, base: &dyn Base, sites: &HashMap<String, u32>) -> String {
    match (Architecture::of(base.root()), base.root()) {
        (Some(encoder), _) => module.strip_prefix(encoder.prefix()).unwrap_or(module).to_owned(),
        (_, RootKind::LLAMA) if !sites.contains_key(module) => format!("model.{module}"),
        _ => module.to_owned(),
    }
}

/// The base's sites by module path.
fn sites(base: &dyn Base) -> HashMap<String, u32> {
    let path = |site: u32| {
        let mut path = String::new();
        base.site(site)?;
        base.write_path(site, &mut path).ok()?;
        Some((path, site))
    };
    (0..base.sites()).filter_map(path).collect()
}

/// There must be targets; and PEFT lets a tied head share the embedding's adapter only if it was
/// told to, then both are stored.
fn check_tying(
    builder: &AdapterBuilder,
    settings: &Settings,
    base: &dyn Base,
    file: &Path,
) -> Result<(), FileError> {
    if builder.targets.is_empty() {
        let reason = format!("the file holds no {} tensors", settings.kind());
        return Err(FileError::format(file, "", reason));
    }
    let has = |site: u32| builder.targets.contains_key(&Place(site));
    if settings.tied && base.tied().is_some_and(|(embedding, head)| has(embedding) != has(head)) {
        let reason = "ties the adapters of embedding and head, but the file has one of them only";
        return Err(FileError::format(&settings.path, "ensure_weight_tying", reason));
    }
    Ok(())
}

/// One file is one adapter: refuses several that are told apart by name.
fn check_names(shards: &Shards, file: &Path) -> Result<(), FileError> {
    let adapters: BTreeSet<&str> = shards.names().filter_map(|name| named(name)?.adapter).collect();
    if adapters.len() < 2 {
        return Ok(());
    }
    let list = adapters.into_iter().collect::<Vec<_>>().join(", ");
    let reason = format!(
        "the file holds several adapters, {list}: save each into a folder of its own (save_pretrained with selected_adapters)"
    );
    Err(FileError::format(file, "", reason))
}

/// The tensors of one module with their names.
pub(super) type Tensors<'s> = BTreeMap<Role, (&'s str, Stored<'s>)>;

/// Those of all modules by path.
type Modules<'s> = BTreeMap<String, Tensors<'s>>;

/// A classifier's tensors by name.
type Parts<'s> = BTreeMap<String, Stored<'s>>;

/// All tensors of LoRA and IA3 by module path; and the classifier's, if the base's models can have one.
fn group<'s>(
    shards: &'s Shards,
    file: &Path,
    head: Option<Head>,
) -> Result<(Modules<'s>, Parts<'s>), FileError> {
    check_names(shards, file)?;
    let (mut modules, mut classifier) = (Modules::new(), Parts::new());
    for name in shards.names() {
        let Some((stored, _)) = shards.get(name) else { continue };
        if let Some(part) = head.and_then(|head| head.part(name)) {
            classifier.insert(part, stored);
            continue;
        }
        let not_lora = "not a LoRA tensor, nor one of IA3: whole tensors that replace the base's (modules_to_save, resized embeddings) are not supported";
        let foreign =
            if name.ends_with(".lora_a") || name.ends_with(".lora_b") { MLX } else { not_lora };
        let Named { module, role, .. } =
            named(name).ok_or_else(|| FileError::format(file, name, foreign))?;
        if let Some((other, _)) =
            modules.entry(module.to_owned()).or_default().insert(role, (name, stored))
        {
            return Err(FileError::format(
                file,
                name,
                format!("the file also has {other}: one of the two is too many"),
            ));
        }
    }
    Ok((modules, classifier))
}

/// One adapted module.
pub(super) struct Module<'m> {
    pub(super) file: &'m Path,
    pub(super) path: &'m str,
    pub(super) site: u32,
    pub(super) tensors: Tensors<'m>,
    pub(super) settings: &'m Settings,
    pub(super) base: &'m dyn Base,
}

impl Module<'_> {
    /// Checks and assembles it.
    fn target(&self) -> Result<TargetParts, FileError> {
        let place = || self.base.site(self.site).zip(self.base.weight_at(self.site));
        let ((rows, cols, is_embedding), weight) =
            place().ok_or_else(|| self.error("the base has no such place"))?;
        let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
        let (a_role, b_role) =
            if is_embedding { (Role::EmbeddingA, Role::EmbeddingB) } else { (Role::A, Role::B) };
        self.check_kind()?;
        if let Some((name, stored)) = self.tensors.get(&Role::Base) {
            check_base(stored, &weight)
                .map_err(|reason| FileError::format(self.file, *name, reason))?;
        }
        if self.settings.is_ia3 {
            return self.scaling([outputs, inputs], is_embedding);
        }
        self.check_roles(is_embedding)?;
        let rank = self.rank(a_role)?;
        Ok(TargetParts {
            rank,
            alpha: self.settings.alpha_of(self.path),
            rank_stabilized: self.settings.rank_stabilized,
            orientation: Orientation::Peft,
            a: self.factor(a_role, [rank, inputs])?,
            b: self.factor(b_role, [outputs, rank])?,
            bias: self.vector(Role::Bias, outputs)?,
            magnitude: self.vector(Role::Magnitude, outputs)?,
            scaled: None,
        })
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> FileError {
        FileError::format(self.file, self.path, reason)
    }

    /// The right kind of tensors for this module, and just those that the configuration announces.
    fn check_roles(&self, is_embedding: bool) -> Result<(), FileError> {
        let has = |role| self.tensors.contains_key(&role);
        let foreign = if is_embedding {
            [Role::A, Role::B, Role::Bias]
        } else {
            [Role::EmbeddingA, Role::EmbeddingB, Role::EmbeddingB]
        };
        if let Some((name, _)) = foreign.iter().find_map(|role| self.tensors.get(role)) {
            let what = if is_embedding {
                "linear layers, this is an embedding"
            } else {
                "embeddings, this is a linear layer"
            };
            return Err(FileError::format(
                self.file,
                *name,
                format!("such tensors belong to {what}"),
            ));
        }
        let Settings { dora, bias, path, .. } = self.settings;
        if is_embedding && (*dora || has(Role::Magnitude)) {
            return Err(self.error("DoRA on embeddings is not supported"));
        }
        for (key, announced, there) in [
            ("use_dora", *dora, has(Role::Magnitude)),
            ("lora_bias", *bias && !is_embedding, has(Role::Bias)),
        ] {
            if announced != there {
                let what = if key == "use_dora" { "lora_magnitude_vector" } else { "lora_B.bias" };
                let is = if there { "is in the file" } else { "is missing" };
                return Err(self.error(format!(
                    "{what} {is}, but {key} is {announced} in {}",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// r, as both A's shape and the configuration have it.
    fn rank(&self, a: Role) -> Result<usize, FileError> {
        let (name, stored) = self.tensor(a)?;
        let expected = self.settings.rank_of(self.path);
        match stored.shape.first() {
            Some(&found) if found == expected => Ok(found),
            found => {
                let reason = format!(
                    "A has rank {}, {} says {expected}",
                    found.unwrap_or(&0),
                    self.settings.path.display()
                );
                Err(FileError::format(self.file, name, reason))
            }
        }
    }

    fn tensor(&self, role: Role) -> Result<(&str, Stored<'_>), FileError> {
        let found = self.tensors.get(&role).copied();
        found.ok_or_else(|| {
            let missing = if matches!(role, Role::A | Role::EmbeddingA) { "A" } else { "B" };
            self.error(format!("half a pair: {missing} is missing"))
        })
    }

    /// A or B in its own type.
    fn factor(&self, role: Role, expected: [usize; 2]) -> Result<Numbers, FileError> {
        let (name, stored) = self.tensor(role)?;
        if stored.shape != expected {
            let reason = format!(
                "the shape is {:?}, the base and the rank ask for {expected:?}",
                stored.shape
            );
            return Err(FileError::format(self.file, name, reason));
        }
        let values = self.values(name, stored)?;
        if stored.dtype != safetensors::Dtype::F16 {
            return Ok(Numbers::F32(values));
        }
        Ok(Numbers::F16(
            stored.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect(),
        ))
    }

    /// A vector of `len` numbers (also as `[len, 1]`), empty if the module has none.
    fn vector(&self, role: Role, len: usize) -> Result<Vec<f32>, FileError> {
        match self.tensors.get(&role) {
            None => Ok(Vec::new()),
            Some((name, stored)) if matches!(stored.shape, [n] | [n, 1] if *n == len) => {
                self.values(name, *stored)
            }
            Some((name, stored)) => Err(FileError::format(
                self.file,
                *name,
                format!("the shape is {:?}, the base asks for [{len}]", stored.shape),
            )),
        }
    }

    /// Finite values as f32.
    pub(super) fn values(&self, name: &str, stored: Stored<'_>) -> Result<Vec<f32>, FileError> {
        let unsupported = || {
            format!("tensors of type {:?} are not supported; F32, F16 and BF16 are", stored.dtype)
        };
        let values =
            stored.to_f32().ok_or_else(|| FileError::format(self.file, name, unsupported()))?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(FileError::format(
                self.file,
                name,
                format!("value {index} is {}", values[index]),
            )),
        }
    }
}
