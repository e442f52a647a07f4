//! How PEFT calls the tensors of an adapter: `MODULE.lora_A.weight`, with the adapter's name left in
//! or not, behind `base_model.model.` or not. Names alone; no tensor is read here.

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    A,
    B,
    Bias,
    Magnitude,
    EmbeddingA,
    EmbeddingB,
    /// IA3's l.
    Scale,
    Base,
}

/// Where a tensor of a LoRA or an IA3 belongs.
pub(super) struct Named<'n> {
    pub(super) module: &'n str,
    /// The adapter's name, if it is left in: `lora_A.NAME.weight`.
    pub(super) adapter: Option<&'n str>,
    pub(super) role: Role,
}

/// What a tensor is by its name; `None` if it is no part of either.
pub(super) fn named(name: &str) -> Option<Named<'_>> {
    const MARKERS: [&str; 7] = [
        ".lora_A",
        ".lora_B",
        ".lora_magnitude_vector",
        ".lora_embedding_A",
        ".lora_embedding_B",
        ".ia3_l",
        ".base_layer",
    ];
    let path = name.strip_prefix("base_model.model.").unwrap_or(name);
    let (module, marker, rest) = MARKERS.iter().find_map(|marker| {
        let (module, rest) = path.rsplit_once(marker)?;
        (rest.is_empty() || rest.starts_with('.')).then_some((module, *marker, rest))
    })?;
    let parts: Vec<&str> = rest.split('.').skip(1).collect();
    let (adapter, tail) = match (marker, parts.as_slice()) {
        (_, []) => (None, ""),
        (_, [tail @ ("weight" | "bias")]) => (None, *tail),
        (
            ".lora_magnitude_vector" | ".lora_embedding_A" | ".lora_embedding_B" | ".ia3_l",
            [adapter],
        ) => (Some(*adapter), ""),
        (_, [adapter, tail]) => (Some(*adapter), *tail),
        _ => return None,
    };
    let role = match (marker, tail) {
        (".lora_A", "weight") => Role::A,
        (".lora_B", "weight") => Role::B,
        (".lora_B", "bias") => Role::Bias,
        (".lora_magnitude_vector", "" | "weight") => Role::Magnitude,
        (".lora_embedding_A", "") => Role::EmbeddingA,
        (".lora_embedding_B", "") => Role::EmbeddingB,
        (".ia3_l", "") => Role::Scale,
        (".base_layer", "weight") => Role::Base,
        _ => return None,
    };
    Some(Named { module, adapter, role })
}
