//! How a model is calibrated: as blocks of stages, each with layers that read the same inputs.

use crate::nn::Linear;
use crate::quant::Matrix;
use crate::train::device::Floats;
use crate::train::step::Step;

/// Some sequences on their way through a model.
pub(crate) struct Flow {
    /// Sequence i has rows `starts[i] .. starts[i + 1]`.
    pub(crate) starts: Vec<usize>,
    /// The residual stream, `[rows, dim]`.
    pub(crate) x: Floats,
    /// What the layers of the stage at hand read, `[rows, in]`.
    pub(crate) inputs: Floats,
}

/// A model family as blocks of stages. What a stage's layers read is computed from the layers of the
/// stage before.
pub(crate) trait Stages {
    /// How many blocks there are.
    fn blocks(&self) -> usize;

    /// The layers of each stage of a block, as the archive has them.
    fn stages(&self, block: usize) -> Vec<Vec<Linear<'_>>>;

    /// The residual stream before the first block, of an embedding that may be another than the
    /// archive's.
    fn begin(&self, step: &Step<'_>, table: Matrix<'_>, tokens: &[u32], starts: &[usize])
    -> Floats;

    /// Brings `flow` to the inputs of a stage of a block. `before` are the layers of the stage
    /// before, of the block before for a block's first, which read `flow.inputs`; none for the
    /// very first.
    fn advance(
        &self,
        step: &Step<'_>,
        block: usize,
        stage: usize,
        before: &[Linear<'_>],
        flow: &mut Flow,
    );
}

/// y of a layer.
pub(crate) fn product(step: &Step<'_>, linear: &Linear<'_>, x: &[f32]) -> Floats {
    let mut y = step.machine.unset(x.len() / linear.weight.cols() * linear.weight.rows());
    step.frozen(linear, x, &mut y);
    y
}
