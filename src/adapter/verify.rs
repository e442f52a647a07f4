//! The fingerprint of an opened adapter, computed again from what it holds, without a copy of it.

use super::Classifier;
use super::factor::{Factor, FactorValues};
use super::lora::{Adapter, LowRank};
use crate::archive::{Hasher, schema};
use crate::error::{Result, RootKind};
use crate::quant::Format;

/// Compares the adapter's fingerprint with that of what it holds.
pub(super) fn check(adapter: &Adapter<'_>) -> Result<()> {
    let root = adapter.root;
    let targets = root.targets.iter().map(|stored| {
        let target = LowRank::new(stored);
        schema::Target {
            site: target.site,
            kind: stored.kind,
            scaling: stored.scaling,
            rank: target.rank as u32,
            inputs: target.inputs as u32,
            outputs: target.outputs as u32,
            alpha: target.alpha,
            a: factor(&target.a),
            b: factor(&target.b),
            bias: target.bias,
            magnitude: target.magnitude,
            gain: target.gain,
        }
    });
    let classifier = root.classifier.as_ref().map(Classifier::new).map(|classifier| {
        let (weight, bias) = (classifier.weight().into(), classifier.bias());
        schema::Classifier { linear: schema::Linear { weight, bias }, labels: "" }
    });
    let replaced = adapter.pooler().map(|(weight, bias)| schema::Replaced {
        site: adapter.sites().saturating_sub(1),
        linear: schema::Linear { weight: weight.into(), bias },
    });
    let twin = schema::Adapter {
        base: root.base,
        base_root: root.base_root.to_native(),
        name: "",
        method: "",
        facts: "",
        index: &[],
        targets: &[],
        replaced: replaced.as_slice(),
        classifier,
    };
    Hasher::check(adapter.fingerprint(), RootKind::ADAPTER, |hasher| twin.feed(targets, hasher))
}

fn factor<'a>(factor: &Factor<'a>) -> schema::Factor<'a> {
    let (format, values, scales) = match factor.values() {
        FactorValues::F32(values) => (Format::F32, bytemuck::cast_slice(values), &[][..]),
        FactorValues::F16(values) => (Format::F16, bytemuck::cast_slice(values), &[][..]),
        FactorValues::Int8 { values, scales } => {
            (Format::Int8, bytemuck::cast_slice(values), scales)
        }
    };
    schema::Factor { format: format as u8, values, scales }
}
