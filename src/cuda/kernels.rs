//! What each kernel takes, field by field as in `ptx/*.h` and `ptx/*.cu`, and how it is launched.

use std::sync::Arc;

use super::buffer::Address;
use super::device::Kernel;
use super::{CudaError, Device};
use crate::nn::KvFormat;

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
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Norm {
    pub(super) x: Address,
    pub(super) y: Address,
    pub(super) weight: Address,
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

/// A format that kernels multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Nf4,
    Int8,
    F16,
    F32,
}

/// Vectors that one block of each product kernel multiplies.
const VECTORS: [usize; 3] = [1, 4, 8];

/// Every kernel.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) device: Arc<Device>,
    products: [[Kernel; 3]; 4],
    embeddings: [Kernel; 4],
    down: Kernel,
    norm: Kernel,
    /// Of an f16 and of an f32 cache.
    rotary: [Kernel; 2],
    attention: [Kernel; 2],
    swiglu: Kernel,
    argmax: Kernel,
}

fn blocks(count: u32, each: usize) -> usize {
    (count as usize).div_ceil(each)
}

impl Kernels {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        device.enter()?;
        let of = |name: String| device.kernel(&name);
        let product = |format: &str| -> Result<[Kernel; 3], CudaError> {
            let [one, some, many] = VECTORS.map(|n| of(format!("product_{format}_{n}")));
            Ok([one?, some?, many?])
        };
        let embedding = |format: &str| of(format!("embedding_{format}"));
        Ok(Self {
            device: Arc::clone(device),
            products: [product("nf4")?, product("int8")?, product("f16")?, product("f32")?],
            embeddings: [
                embedding("nf4")?,
                embedding("int8")?,
                embedding("f16")?,
                embedding("f32")?,
            ],
            down: device.kernel("low_rank_down")?,
            norm: device.kernel("rms_norm")?,
            rotary: [device.kernel("rotary_f16")?, device.kernel("rotary_f32")?],
            attention: [device.kernel("attention_f16")?, device.kernel("attention_f32")?],
            swiglu: device.kernel("swiglu")?,
            argmax: device.kernel("argmax")?,
        })
    }

    pub(super) fn product(&self, format: Stored, p: &Product) -> Result<(), CudaError> {
        let n = p.n as usize;
        let which = VECTORS.iter().position(|&most| n <= most).unwrap_or(VECTORS.len() - 1);
        let grid = (blocks(p.weight.rows, 16), n.div_ceil(VECTORS[which]));
        self.device.launch(self.products[format as usize][which], grid, 256, p)
    }

    pub(super) fn embedding(
        &self,
        format: Stored,
        n: usize,
        p: &Embedding,
    ) -> Result<(), CudaError> {
        self.device.launch(self.embeddings[format as usize], (n, 1), 256, p)
    }

    /// `width` are the ranks of the row that has most.
    pub(super) fn down(&self, n: usize, width: u32, p: &Down) -> Result<(), CudaError> {
        self.device.launch(self.down, (n, blocks(width, 8)), 256, p)
    }

    pub(super) fn norm(&self, n: usize, parts: usize, p: &Norm) -> Result<(), CudaError> {
        self.device.launch(self.norm, (n, parts), 256, p)
    }

    pub(super) fn rotary(&self, kv: KvFormat, n: usize, p: &Rotary) -> Result<(), CudaError> {
        let kernel = self.rotary[usize::from(kv == KvFormat::F32)];
        self.device.launch(kernel, (n, (p.heads + 2 * p.kv_heads) as usize), 128, p)
    }

    pub(super) fn attention(&self, kv: KvFormat, n: usize, p: &Attention) -> Result<(), CudaError> {
        let kernel = self.attention[usize::from(kv == KvFormat::F32)];
        self.device.launch(kernel, (n, p.heads as usize), 128, p)
    }

    pub(super) fn swiglu(&self, n: usize, p: &Swiglu) -> Result<(), CudaError> {
        self.device.launch(self.swiglu, (n, blocks(p.width, 256)), 256, p)
    }

    pub(super) fn argmax(&self, n: usize, p: &Argmax) -> Result<(), CudaError> {
        self.device.launch(self.argmax, (n, 1), 256, p)
    }
}
