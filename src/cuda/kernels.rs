//! Every kernel, and how it is launched.

use std::sync::Arc;

use super::device::Kernel;
use super::parameters::{
    Activate, Argmax, Attention, Best, Bidirectional, Down, Embedding, Halves, Norm, Pool, Product,
    Rotary, Split, Swiglu, Tensor,
};
use super::{CudaError, Device};
use crate::nn::KvFormat;

/// A format that kernels multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    Nf4,
    Int8,
    F16,
    F32,
}

/// Vectors that one block of each product kernel multiplies, and one of each on tensor cores.
const VECTORS: [usize; 3] = [1, 4, 8];
const TENSOR: [usize; 2] = [8, 16];

/// Of more vectors products of NF4 run on tensor cores.
pub(super) const FEW: usize = 4;

/// Rows that give every multiprocessor of a large card two blocks of the kernel that makes 32 rows
/// with one.
const LARGE: u32 = 8192;

/// Every kernel.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) device: Arc<Device>,
    products: [[Kernel; 2]; 4],
    /// Of eight vectors and int8, f16 and f32.
    many: [Kernel; 3],
    halve: Kernel,
    tensor: [Kernel; 2],
    /// Of one vector and an NF4 matrix of [`LARGE`] rows or more.
    large: Kernel,
    embeddings: [Kernel; 4],
    down: Kernel,
    norm: Kernel,
    layer_norm: Kernel,
    unit_length: Kernel,
    /// Of an f16 and of an f32 cache.
    rotary: [Kernel; 2],
    attention: [Kernel; 2],
    bidirectional: Kernel,
    swiglu: Kernel,
    activation: Kernel,
    pool: Kernel,
    argmax: Kernel,
    best: Kernel,
}

fn blocks(count: u32, each: usize) -> usize {
    (count as usize).div_ceil(each)
}

impl Kernels {
    pub(super) fn new(device: &Arc<Device>) -> Result<Self, CudaError> {
        device.enter()?;
        let of = |name: String| device.kernel(&name);
        let product = |format: &str| -> Result<[Kernel; 2], CudaError> {
            let [one, few] = [1, FEW].map(|n| of(format!("product_{format}_{n}")));
            Ok([one?, few?])
        };
        let [eight, sixteen] = TENSOR.map(|n| of(format!("tensor_nf4_{n}")));
        let embedding = |format: &str| of(format!("embedding_{format}"));
        Ok(Self {
            device: Arc::clone(device),
            products: [product("nf4")?, product("int8")?, product("f16")?, product("f32")?],
            many: [
                device.kernel("product_int8_8")?,
                device.kernel("product_f16_8")?,
                device.kernel("product_f32_8")?,
            ],
            halve: device.kernel("halve")?,
            tensor: [eight?, sixteen?],
            large: device.kernel("product_nf4_1_large")?,
            embeddings: [
                embedding("nf4")?,
                embedding("int8")?,
                embedding("f16")?,
                embedding("f32")?,
            ],
            down: device.kernel("low_rank_down")?,
            norm: device.kernel("rms_norm")?,
            layer_norm: device.kernel("layer_norm")?,
            unit_length: device.kernel("unit_length")?,
            rotary: [device.kernel("rotary_f16")?, device.kernel("rotary_f32")?],
            attention: [device.kernel("attention_f16")?, device.kernel("attention_f32")?],
            bidirectional: device.kernel("attention_bidirectional")?,
            swiglu: device.kernel("swiglu")?,
            activation: device.kernel("activation")?,
            pool: device.kernel("pool")?,
            argmax: device.kernel("argmax")?,
            best: device.kernel("best")?,
        })
    }

    /// `split` has room for x.
    pub(super) fn product(
        &self,
        format: Stored,
        p: &Product,
        split: Split,
    ) -> Result<(), CudaError> {
        let n = p.n as usize;
        if n > FEW && format == Stored::Nf4 {
            return self.on_tensor_cores(p, split);
        }
        if n == 1 && format == Stored::Nf4 && p.weight.rows >= LARGE {
            return self.device.launch(self.large, (blocks(p.weight.rows, 32), 1), 256, p);
        }
        let which = VECTORS.iter().position(|&most| n <= most).unwrap_or(VECTORS.len() - 1);
        let grid = (blocks(p.weight.rows, 16), n.div_ceil(VECTORS[which]));
        let kernel = match self.products[format as usize].get(which) {
            Some(kernel) => *kernel,
            None => self.many[format as usize - 1],
        };
        self.device.launch(kernel, grid, 256, p)
    }

    fn on_tensor_cores(&self, product: &Product, split: Split) -> Result<(), CudaError> {
        let Product { x, x_stride, n, weight, .. } = *product;
        let halves = Halves { x, to: split, cols: weight.cols, x_stride };
        self.device.launch(self.halve, (blocks(weight.cols, 512), n as usize), 256, &halves)?;
        let which = usize::from(n as usize > TENSOR[0]);
        let grid = (blocks(weight.rows, 16), blocks(n, TENSOR[which]));
        let tensor = Tensor { product: *product, split };
        self.device.launch(self.tensor[which], grid, 256, &tensor)
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

    pub(super) fn layer_norm(&self, n: usize, p: &Norm) -> Result<(), CudaError> {
        self.device.launch(self.layer_norm, (n, 1), 256, p)
    }

    pub(super) fn unit_length(&self, n: usize, p: &Norm) -> Result<(), CudaError> {
        self.device.launch(self.unit_length, (n, 1), 256, p)
    }

    pub(super) fn rotary(&self, kv: KvFormat, n: usize, p: &Rotary) -> Result<(), CudaError> {
        let kernel = self.rotary[usize::from(kv == KvFormat::F32)];
        self.device.launch(kernel, (n, (p.heads + 2 * p.kv_heads) as usize), 128, p)
    }

    pub(super) fn attention(&self, kv: KvFormat, n: usize, p: &Attention) -> Result<(), CudaError> {
        let kernel = self.attention[usize::from(kv == KvFormat::F32)];
        self.device.launch(kernel, (n, p.heads as usize), 128, p)
    }

    pub(super) fn bidirectional(
        &self,
        n: usize,
        heads: usize,
        p: &Bidirectional,
    ) -> Result<(), CudaError> {
        self.device.launch(self.bidirectional, (n, heads), 128, p)
    }

    pub(super) fn activation(&self, n: usize, p: &Activate) -> Result<(), CudaError> {
        self.device.launch(self.activation, (n, blocks(p.width, 256)), 256, p)
    }

    pub(super) fn pool(&self, texts: usize, p: &Pool) -> Result<(), CudaError> {
        self.device.launch(self.pool, (texts, blocks(p.width, 256)), 256, p)
    }

    pub(super) fn swiglu(&self, n: usize, p: &Swiglu) -> Result<(), CudaError> {
        self.device.launch(self.swiglu, (n, blocks(p.width, 256)), 256, p)
    }

    pub(super) fn argmax(&self, n: usize, p: &Argmax) -> Result<(), CudaError> {
        self.device.launch(self.argmax, (n, 1), 256, p)
    }

    pub(super) fn best(&self, n: usize, parts: usize, p: &Best) -> Result<(), CudaError> {
        self.device.launch(self.best, (parts, n), 256, p)
    }
}
