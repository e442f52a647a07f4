//! The Llama family as stages, for calibration: see `train::calibrate`.

use super::LlamaBody;
use super::block::turn;
use crate::nn::{Embedding, Linear};
use crate::quant::Matrix;
use crate::train::attention::{self, Inputs};
use crate::train::calibrate::{Flow, Stages, product};
use crate::train::device::Floats;
use crate::train::ops;
use crate::train::step::Step;

impl Stages for LlamaBody<'_> {
    fn blocks(&self) -> usize {
        self.model.config().layers
    }

    fn stages(&self, block: usize) -> Vec<Vec<Linear<'_>>> {
        let layer = self.model.layer(block);
        let attention = [vec![layer.q, layer.k, layer.v], vec![layer.o]];
        attention.into_iter().chain([vec![layer.gate, layer.up], vec![layer.down]]).collect()
    }

    fn begin(&self, step: &Step<'_>, table: Matrix<'_>, tokens: &[u32], _: &[usize]) -> Floats {
        let mut x = step.machine.unset(tokens.len() * self.model.config().dim);
        step.embed(&Embedding { table, ..self.embedding() }, tokens, &mut x);
        x
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
                let [mut q, mut k, v] = [q, k, v].map(|linear| apply(linear, &flow.inputs));
                let turns = self.turns(step, &flow.starts);
                for (heads, norm) in [(&mut q, layer.q_norm), (&mut k, layer.k_norm)] {
                    if !norm.is_empty() {
                        *heads = ops::rms_norm(m, heads, norm, c.norm_epsilon);
                    }
                    turn(m, heads, &turns, c.head_dim, 1.0);
                }
                let inputs = Inputs { q: &q, k: &k, v: &v };
                flow.inputs = attention::forward(m, self.shape(), &flow.starts, inputs);
            }
            (3, [gate, up]) => {
                let [gate, up] = [gate, up].map(|linear| apply(linear, &flow.inputs));
                flow.inputs = ops::silu_mul(m, &gate, &up);
            }
            (_, before) => {
                if let [linear] = before {
                    ops::add(m, &mut flow.x, &apply(linear, &flow.inputs));
                }
                let norm = if stage == 0 { layer.attention_norm } else { layer.feed_forward_norm };
                flow.inputs = ops::rms_norm(m, &flow.x, norm, c.norm_epsilon);
            }
        }
    }
}
