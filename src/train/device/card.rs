//! A card that takes over products with frozen weights, whoever's it is.

use crate::nn::{FactorGradients, Factors, Linear};
use crate::train::TrainError;

/// Products with the frozen layers of a base, on another processor. What fails there is told by
/// [`check`](Self::check), once; results are then of no use.
pub(crate) trait Card: Send + Sync {
    /// Is the layer at a site there?
    fn has(&self, site: u32) -> bool;

    /// `Y = X Wᵀ + b`, X `[n, in]`, Y `[n, out]`; with factors also `Y += U B`, U = s·X Aᵀ, `[n,
    /// rank]`, which is left where they say.
    fn forward(
        &self,
        linear: &Linear<'_>,
        x: &[f32],
        factors: Option<(Factors<'_>, &mut [f32])>,
        y: &mut [f32],
    );

    /// `dX += dY W`, dY `[n, out]`, dX `[n, in]`, if it is asked for; with factors their gradients,
    /// and `dX += dU A`, dU = s·dY Bᵀ.
    fn backward(
        &self,
        site: u32,
        dy: &[f32],
        factors: Option<FactorGradients<'_>>,
        dx: Option<&mut [f32]>,
    );

    /// Has everything so far been computed?
    fn check(&self) -> Result<(), TrainError>;
}
