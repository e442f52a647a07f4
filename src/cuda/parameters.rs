//! What each kernel takes, field by field as in `ptx/*.h` and `ptx/*.cu`.

use super::buffer::Address;

/// `Matrix` of `ptx/weights.h`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Matrix {
    pub(super) codes: Address,
    pub(super) scales: Address,
    pub(super) nested: Address,
    pub(super) tables: Address,
    pub(super) offset: f32,
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) stride: u32,
    pub(super) block_shift: u32,
    pub(super) padding: u32,
}

/// `Low` of `ptx/common.h`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Low {
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) bias: Address,
    pub(super) gain: Address,
    pub(super) rank: u32,
    pub(super) first: u32,
    pub(super) a_stride: u32,
    pub(super) b_stride: u32,
    pub(super) a_is_f16: u32,
    pub(super) b_is_f16: u32,
    pub(super) scale: f32,
    pub(super) weight: f32,
}

impl Low {
    /// As it lies on the device.
    pub(super) fn words(&self) -> [u64; 8] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [
            self.a,
            self.b,
            self.bias,
            self.gain,
            pair(self.rank, self.first),
            pair(self.a_stride, self.b_stride),
            pair(self.a_is_f16, self.b_is_f16),
            pair(self.scale.to_bits(), self.weight.to_bits()),
        ]
    }
}

/// `Product` of `ptx/product.h`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Product {
    pub(super) weight: Matrix,
    pub(super) x: Address,
    pub(super) y: Address,
    pub(super) bias: Address,
    pub(super) adapters: Address,
    pub(super) sequences: Address,
    pub(super) down: Address,
    pub(super) n: u32,
    pub(super) x_stride: u32,
    pub(super) y_stride: u32,
    pub(super) down_stride: u32,
    pub(super) site: u32,
    pub(super) sites: u32,
    pub(super) max_active: u32,
    pub(super) accumulate: u32,
}

/// Numbers split into two f16 for tensor cores, [`Halves`]'s and [`Tensor`]'s.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Split {
    pub(super) high: Address,
    pub(super) low: Address,
    pub(super) scales: Address,
}

/// `Halves` of `ptx/tensor.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Halves {
    pub(super) x: Address,
    pub(super) to: Split,
    pub(super) cols: u32,
    pub(super) x_stride: u32,
}

/// `Tensor` of `ptx/tensor.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Tensor {
    pub(super) product: Product,
    pub(super) split: Split,
}

/// `Embedding` of `ptx/product.h`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Embedding {
    pub(super) table: Matrix,
    pub(super) tokens: Address,
    pub(super) y: Address,
    pub(super) adapters: Address,
    pub(super) sequences: Address,
    pub(super) y_stride: u32,
    pub(super) site: u32,
    pub(super) sites: u32,
    pub(super) max_active: u32,
    pub(super) accumulate: u32,
    pub(super) padding: u32,
}

/// `Down` of `ptx/low_rank.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Down {
    pub(super) x: Address,
    pub(super) u: Address,
    pub(super) adapters: Address,
    pub(super) sequences: Address,
    pub(super) inputs: u32,
    pub(super) x_stride: u32,
    pub(super) u_stride: u32,
    pub(super) site: u32,
    pub(super) sites: u32,
    pub(super) max_active: u32,
}

/// `Norm` of `ptx/norm.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Norm {
    pub(super) x: Address,
    pub(super) y: Address,
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) rows: Address,
    pub(super) epsilon: f32,
    pub(super) width: u32,
    pub(super) x_stride: u32,
    pub(super) y_stride: u32,
}

/// `Rotary` of `ptx/rotary.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Rotary {
    pub(super) q: Address,
    pub(super) k: Address,
    pub(super) v: Address,
    pub(super) keys: Address,
    pub(super) values: Address,
    pub(super) angles: Address,
    pub(super) positions: Address,
    pub(super) sequences: Address,
    pub(super) overflow: Address,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) d: u32,
    pub(super) room: u32,
    pub(super) q_stride: u32,
    pub(super) kv_stride: u32,
}

/// `Attention` of `ptx/attention.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Attention {
    pub(super) q: Address,
    pub(super) out: Address,
    pub(super) keys: Address,
    pub(super) values: Address,
    pub(super) positions: Address,
    pub(super) sequences: Address,
    pub(super) scale: f32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    pub(super) d: u32,
    pub(super) room: u32,
    pub(super) q_stride: u32,
    pub(super) out_stride: u32,
}

/// `Bidirectional` of `ptx/attention.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Bidirectional {
    pub(super) q: Address,
    pub(super) k: Address,
    pub(super) v: Address,
    pub(super) out: Address,
    pub(super) first: Address,
    pub(super) length: Address,
    pub(super) scale: f32,
    pub(super) d: u32,
    pub(super) stride: u32,
    pub(super) padding: u32,
}

/// `Activation` of `ptx/activation.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Activate {
    pub(super) x: Address,
    pub(super) width: u32,
    pub(super) stride: u32,
    pub(super) function: u32,
    pub(super) padding: u32,
}

/// `Pool` of `ptx/pool.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Pool {
    pub(super) x: Address,
    pub(super) out: Address,
    pub(super) first: Address,
    pub(super) length: Address,
    pub(super) width: u32,
    pub(super) stride: u32,
    pub(super) is_mean: u32,
    pub(super) padding: u32,
}

/// `Swiglu` of `ptx/swiglu.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Swiglu {
    pub(super) gate: Address,
    pub(super) up: Address,
    pub(super) width: u32,
    pub(super) stride: u32,
}

/// `Argmax` of `ptx/argmax.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Argmax {
    pub(super) x: Address,
    pub(super) out: Address,
    pub(super) width: u32,
    pub(super) stride: u32,
}

/// `Best` of `ptx/best.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Best {
    pub(super) x: Address,
    pub(super) places: Address,
    pub(super) values: Address,
    pub(super) out: Address,
    pub(super) width: u32,
    pub(super) stride: u32,
    pub(super) k: u32,
    pub(super) padding: u32,
}

/// `Tiles` of `ptx/training.cu`.
#[cfg(feature = "train")]
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Tiles {
    pub(super) weight: Matrix,
    pub(super) x: Address,
    pub(super) y: Address,
    pub(super) bias: Address,
    pub(super) low: Address,
    pub(super) factors: Address,
    pub(super) n: u32,
    pub(super) x_stride: u32,
    pub(super) y_stride: u32,
    pub(super) low_stride: u32,
    pub(super) factors_stride: u32,
    pub(super) rank: u32,
}

/// `Gradient` of `ptx/training.cu`.
#[cfg(feature = "train")]
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Gradient {
    pub(super) x: Address,
    pub(super) u: Address,
    pub(super) g: Address,
    pub(super) n: u32,
    pub(super) width: u32,
    pub(super) rank: u32,
    pub(super) x_stride: u32,
    pub(super) u_stride: u32,
    pub(super) g_stride: u32,
}
