//! The BERT family as stages, for calibration: see `train::calibrate`.

use super::BertBody;
use crate::nn::{Embedding, Linear};
use crate::quant::Matrix;
use crate::train::attention::{self, Inputs};
use crate::train::calibrate::{Flow, Stages, product};
use crate::train::device::Floats;
use crate::train::ops;
use crate::train::step::Step;

impl Stages for BertBody<'_> {
    fn blocks(&self) -> usize {
        self.model.config().layers
    }

    fn stages(&self, block: usize) -> Vec<Vec<Linear<'_>>> {
        let layer = self.model.layer(block);
        vec![vec![layer.q, layer.k, layer.v], vec![layer.o], vec![layer.up], vec![layer.down]]
    }

    fn begin(
        &self,
        step: &Step<'_>,
        table: Matrix<'_>,
        tokens: &[u32],
        starts: &[usize],
    ) -> Floats {
        let mut sum = step.machine.unset(tokens.len() * self.model.config().dim);
        step.embed(&Embedding { table, ..self.embedding() }, tokens, &mut sum);
        self.add_places(step, starts, &mut sum);
        ops::layer_norm(&step.machine, &sum, &self.model.embedding_norm())
    }

    fn advance(
        &self,
        step: &Step<'_>,
        block: usize,
        stage: usize,
        before: &[Linear<'_>],
        flow: &mut Flow,
    ) {
        let (m, c, layer) = (&step.machine, self.model.config(), self.model.layer(block));
        let apply = |linear, x: &[f32]| product(step, linear, x);
        match (stage, before) {
            (1, [q, k, v]) => {
                let [q, k, v] = [q, k, v].map(|linear| apply(linear, &flow.inputs));
                let inputs = Inputs { q: &q, k: &k, v: &v };
                flow.inputs = attention::forward(m, self.shape(), &flow.starts, inputs);
            }
            (3, [up]) => {
                flow.inputs = ops::activate(m, c.activation, &apply(up, &flow.inputs));
            }
            (_, before) => {
                if let [linear] = before {
                    // x ← norm(x + layer)
                    ops::add(m, &mut flow.x, &apply(linear, &flow.inputs));
                    let norm = match stage {
                        2 => layer.attention_norm,
                        _ => self.model.layer(block.saturating_sub(1)).output_norm,
                    };
                    flow.x = ops::layer_norm(m, &flow.x, &norm);
                }
                flow.inputs = m.copy(&flow.x);
            }
        }
    }
}
