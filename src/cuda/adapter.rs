//! Adapters on the device: copied once, in one piece, then only pointed at. B is turned so that the
//! ranks of one output are neighbours.

use std::sync::{Arc, Mutex, PoisonError};

use half::f16;

use super::buffer::{Address, Buffer};
use super::parameters::Low;
use super::upload::{DeviceLinear, Upload};
use super::weights::padded;
use super::{CudaError, Device, stride};
use crate::adapter::{Active, Adapter, Factor, FactorValues, LowRank};
use crate::archive::Fingerprint;
use crate::nn::Linear;

/// An adapter on the device.
#[derive(Debug)]
pub(super) struct Resident {
    /// By rising site; `rank`, `first`, `scale` and `weight` are filled in when it is chosen.
    targets: Vec<(u32, Low)>,
    /// The pooler that its classifier reads.
    pub(super) pooler: Option<DeviceLinear>,
    _buffers: Vec<Buffer>,
}

/// What is copied, put together before it is: each part at a multiple of 16 bytes.
#[derive(Default)]
struct Image(Vec<u8>);

impl Image {
    /// Where a part of these bytes lies, and one more than nothing.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.0.len();
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(16), 0);
        at as u64 + 1
    }

    /// As [`put`](Self::put), and 0 for nothing.
    fn floats(&mut self, values: &[f32]) -> u64 {
        if values.is_empty() { 0 } else { self.put(bytemuck::cast_slice(values)) }
    }

    /// A factor, or its transpose, in rows of `row_stride(width)`; is it f16?
    fn factor(&mut self, factor: &Factor<'_>, rows: usize, turn: bool, pad: bool) -> (u64, u32) {
        let width = factor.width();
        let shape = if turn { (width, rows) } else { (rows, width) };
        let at = |i: usize| {
            let (row, col) = (i / shape.1.max(1), i % shape.1.max(1));
            if turn { (col, row) } else { (row, col) }
        };
        let count = shape.0 * shape.1;
        let is_f16 = matches!(factor.values(), FactorValues::F16(_));
        let floats = (0..count).map(|i| factor.get(at(i).0, at(i).1));
        let place = if is_f16 {
            // Exact: they come from f16.
            let halves: Vec<u16> = floats.map(|x| f16::from_f32(x).to_bits()).collect();
            let halves = if pad { padded(&halves, shape.1) } else { halves };
            self.put(bytemuck::cast_slice(&halves))
        } else {
            let floats: Vec<f32> = floats.collect();
            let floats = if pad { padded(&floats, shape.1) } else { floats };
            self.put(bytemuck::cast_slice(&floats))
        };
        (place, is_f16.into())
    }

    fn target(&mut self, target: &LowRank<'_>) -> Low {
        // Only rows of a linear layer's A are read eight numbers at a time.
        let (a_rows, a_width, pad) = if target.is_embedding {
            (target.inputs, target.rank, false)
        } else {
            (target.rank, stride(target.inputs), true)
        };
        let (a, a_is_f16) = self.factor(&target.a, a_rows, false, pad);
        let (b, b_is_f16) = self.factor(&target.b, target.rank, true, false);
        Low {
            a,
            b,
            bias: self.floats(target.bias),
            gain: self.floats(target.gain),
            a_stride: a_width as u32,
            b_stride: target.rank as u32,
            a_is_f16,
            b_is_f16,
            ..Low::default()
        }
    }
}

impl Resident {
    /// Copies an adapter; a pooler that it brings stands at site `pooler`.
    fn upload(device: &Arc<Device>, adapter: &Adapter<'_>, pooler: u32) -> Result<Self, CudaError> {
        if adapter.is_ia3() {
            let reason = "the adapter is one of IA3, which runs on the CPU only";
            return Err(CudaError::refused(reason));
        }
        let mut image = Image::default();
        let mut targets: Vec<(u32, Low)> =
            adapter.targets().map(|target| (target.site, image.target(&target))).collect();
        let buffer = Buffer::upload(device, &image.0)?;
        let place = |part: Address| if part == 0 { 0 } else { buffer.address() + part - 1 };
        for (_, low) in &mut targets {
            let Low { a, b, bias, gain, .. } = *low;
            (low.a, low.b, low.bias, low.gain) = (place(a), place(b), place(bias), place(gain));
        }
        let mut upload = Upload::new(device, 0)?;
        let own = adapter.pooler().map(|(weight, bias)| Linear { weight, bias, site: pooler });
        let pooler = own.map(|own| upload.linear(&own)).transpose()?;
        let mut buffers = if pooler.is_some() { upload.kept() } else { Vec::new() };
        buffers.push(buffer);
        Ok(Self { targets, pooler, _buffers: buffers })
    }

    /// Puts what `active`, which is this adapter, does into a sequence's table, `[sites,
    /// max_active]`, as its number `slot`; `ranks`, `[sites]`, are those of the numbers before, and
    /// grow.
    pub(super) fn choose(
        &self,
        active: &Active<'_>,
        slot: usize,
        max_active: usize,
        table: &mut [[u64; 8]],
        ranks: &mut [u32],
    ) {
        for (target, &(site, low)) in active.adapter.targets().zip(&self.targets) {
            let rank = active.rank.map_or(target.rank, |rank| target.rank.min(rank as usize));
            let site = site as usize;
            let chosen = Low {
                rank: rank as u32,
                first: ranks[site],
                scale: target.scale(rank) * active.weight,
                weight: active.weight,
                ..low
            };
            table[site * max_active + slot] = chosen.words();
            ranks[site] += rank as u32;
        }
    }
}

/// The adapters that were chosen so far, of a base.
#[derive(Debug)]
pub(super) struct Residents {
    device: Arc<Device>,
    /// The number of the base's pooler among the sites.
    pooler: u32,
    all: Mutex<Vec<(Fingerprint, Arc<Resident>)>>,
}

impl Residents {
    pub(super) fn new(device: &Arc<Device>, pooler: u32) -> Self {
        Self { device: Arc::clone(device), pooler, all: Mutex::default() }
    }

    /// The copy of an adapter, which is made if there is none.
    pub(super) fn of(&self, adapter: &Adapter<'_>) -> Result<Arc<Resident>, CudaError> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let fingerprint = adapter.fingerprint();
        if let Some((_, resident)) = all.iter().find(|(known, _)| *known == fingerprint) {
            return Ok(Arc::clone(resident));
        }
        let resident = Arc::new(Resident::upload(&self.device, adapter, self.pooler)?);
        all.push((fingerprint, Arc::clone(&resident)));
        Ok(resident)
    }

    /// Frees those that no sequence has chosen.
    pub(super) fn unload_unused(&self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, resident)| Arc::strong_count(resident) > 1);
    }
}
