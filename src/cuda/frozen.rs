//! The linear layers of a base on the device, for training: their products forward and backward,
//! low-rank factors in the same launch, and the gradients of the factors. Activations come from the
//! host and go back; the weights stay.

use std::sync::{Arc, Mutex, PoisonError};

use super::buffer::Buffer;
use super::device::Kernel;
use super::parameters::{Down, Gradient, Low, Tiles};
use super::rows::{Place, Rows};
use super::weights::{Weight, tables};
use super::{CudaError, Device, stride};
use crate::nn::{FactorGradients, Factors, Linear};

/// Numbers and vectors of a block's tile.
const SIDE: usize = 64;

/// Ranks of a block of gradients.
const RANKS: usize = 16;

/// Where rows of u and dU start.
fn ranks_stride(rank: usize) -> usize {
    rank.next_multiple_of(RANKS)
}

/// What products read and write.
#[derive(Debug, Default)]
struct Room {
    x: Place,
    y: Place,
    dy: Place,
    bias: Place,
    a: Place,
    b: Place,
    u: Place,
    du: Place,
    gradient: Place,
    /// The adapter of all vectors, and the number of their sequence, which is 0.
    table: Place,
    sequences: Place,
}

/// Frozen layers on a device.
#[derive(Debug)]
pub(crate) struct Frozen {
    device: Arc<Device>,
    forward: [Kernel; 4],
    backward: [Kernel; 4],
    gradient: Kernel,
    down: Kernel,
    /// By site.
    layers: Vec<Option<Weight>>,
    room: Mutex<Room>,
    _tables: Buffer,
}

/// A product: y of `n` vectors x, and factors E with their u where there are any.
struct Product {
    n: usize,
    x: Rows,
    y: Rows,
    bias: Rows,
    low: Rows,
    factors: Rows,
}

impl Frozen {
    /// Copies the weights of `layers`, which stand by site, to the device.
    pub(crate) fn upload(
        device: &Arc<Device>,
        layers: &[Option<Linear<'_>>],
    ) -> Result<Self, CudaError> {
        device.load_training()?;
        let tables = tables(device)?;
        let upload = |linear: &Option<Linear<'_>>| {
            let upload =
                |linear: &Linear<'_>| Weight::upload(device, &linear.weight, tables.address());
            linear.as_ref().map(upload).transpose()
        };
        // In the order of `Stored`.
        let kernels = |name: &str| -> Result<[Kernel; 4], CudaError> {
            let [nf4, int8, f16, f32] = ["nf4", "int8", "f16", "f32"]
                .map(|format| device.kernel(&format!("{name}_{format}")));
            Ok([nf4?, int8?, f16?, f32?])
        };
        Ok(Self {
            device: Arc::clone(device),
            forward: kernels("forward")?,
            backward: kernels("backward")?,
            gradient: device.kernel("gradient")?,
            down: device.kernel("low_rank_down")?,
            layers: layers.iter().map(upload).collect::<Result<_, _>>()?,
            room: Mutex::default(),
            _tables: tables,
        })
    }

    /// The layer at a site, if it is here.
    fn layer(&self, site: u32) -> Option<&Weight> {
        self.layers.get(site as usize)?.as_ref()
    }

    /// Is the layer at a site here?
    pub(crate) fn has(&self, site: u32) -> bool {
        self.layer(site).is_some()
    }

    fn weight(&self, site: u32) -> Result<&Weight, CudaError> {
        let missing = || CudaError::refused(format!("the layer at site {site} is not on the card"));
        self.layer(site).ok_or_else(missing)
    }

    /// `Y = X Wᵀ + b`, X `[n, in]`, Y `[n, out]`; with factors also `Y += U B`, U = s·X Aᵀ, `[n,
    /// rank]`, which is copied to where they say.
    pub(crate) fn forward(
        &self,
        linear: &Linear<'_>,
        x: &[f32],
        factors: Option<(Factors<'_>, &mut [f32])>,
        y: &mut [f32],
    ) -> Result<(), CudaError> {
        let (weight, device) = (self.weight(linear.site)?, &self.device);
        let [inputs, outputs] = [weight.matrix.cols, weight.matrix.rows].map(|n| n as usize);
        let n = x.len() / inputs;
        if n == 0 {
            return Ok(());
        }
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *room;
        let mut product = Product {
            n,
            x: r.x.put(device, x, inputs, stride(inputs))?,
            y: r.y.room(device, n, outputs, outputs)?,
            bias: match linear.bias {
                [] => Rows::default(),
                bias => r.bias.put(device, bias, outputs, outputs)?,
            },
            low: Rows::default(),
            factors: Rows::default(),
        };
        if let Some((Factors { rank, scale, a, b }, _)) = factors {
            let a = r.a.put(device, a, inputs, stride(inputs))?;
            product.low = r.b.put(device, b, outputs, stride(outputs))?;
            product.factors = r.u.room(device, n, rank, ranks_stride(rank))?;
            self.down(r, scale, a, product.x, product.factors, n)?;
        }
        self.multiply(&self.forward, weight, &product)?;
        r.y.get(product.y, y)?;
        factors.map_or(Ok(()), |(_, u)| r.u.get(product.factors, u))
    }

    /// `dX += dY W`, dY `[n, out]`, dX `[n, in]`, if it is asked for; with factors their gradients,
    /// and `dX += dU A`, dU = s·dY Bᵀ.
    pub(crate) fn backward(
        &self,
        site: u32,
        dy: &[f32],
        factors: Option<FactorGradients<'_>>,
        dx: Option<&mut [f32]>,
    ) -> Result<(), CudaError> {
        let (weight, device) = (self.weight(site)?, &self.device);
        let [inputs, outputs] = [weight.matrix.cols, weight.matrix.rows].map(|n| n as usize);
        let n = dy.len() / outputs;
        if n == 0 {
            return Ok(());
        }
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let r = &mut *room;
        let dy = r.dy.put(device, dy, outputs, stride(outputs))?;
        let (mut low, mut du) = Default::default();
        if let Some(FactorGradients { factors, x, u, da, db }) = factors {
            let (rank, scale) = (factors.rank, factors.scale);
            low = r.a.put(device, factors.a, inputs, stride(inputs))?;
            let b = r.b.put(device, factors.b, outputs, stride(outputs))?;
            du = r.du.room(device, n, rank, ranks_stride(rank))?;
            self.down(r, scale, b, dy, du, n)?;
            let u = r.u.put(device, u, rank, ranks_stride(rank))?;
            self.gradient(r, u, dy, n, db)?;
            if let Some(da) = da {
                let x = r.x.put(device, x, inputs, stride(inputs))?;
                self.gradient(r, du, x, n, da)?;
            }
        }
        let Some(dx) = dx else { return Ok(()) };
        let y = r.y.room(device, n, inputs, inputs)?;
        let product = Product { n, x: dy, y, bias: Rows::default(), low, factors: du };
        self.multiply(&self.backward, weight, &product)?;
        r.y.add_to(y, dx)
    }

    fn multiply(
        &self,
        kernels: &[Kernel; 4],
        weight: &Weight,
        product: &Product,
    ) -> Result<(), CudaError> {
        let Product { n, x, y, bias, low, factors } = *product;
        let tiles = Tiles {
            weight: weight.matrix,
            x: x.at,
            y: y.at,
            bias: bias.at,
            low: low.at,
            factors: factors.at,
            n: n as u32,
            x_stride: x.stride as u32,
            y_stride: y.stride as u32,
            low_stride: low.stride as u32,
            factors_stride: factors.stride as u32,
            rank: factors.width as u32,
        };
        let grid = (y.width.div_ceil(SIDE), n.div_ceil(SIDE));
        self.device.launch(kernels[weight.format as usize], grid, 256, &tiles)
    }

    /// u = s times the products of `n` vectors x with the rows of a factor.
    fn down(
        &self,
        r: &mut Room,
        scale: f32,
        factor: Rows,
        x: Rows,
        u: Rows,
        n: usize,
    ) -> Result<(), CudaError> {
        let low = Low {
            a: factor.at,
            // Not read: it says that there is an adapter.
            b: factor.at,
            rank: u.width as u32,
            a_stride: factor.stride as u32,
            scale,
            ..Low::default()
        };
        let adapters = r.table.room(&self.device, 1, 16, 16)?.at;
        r.table.write(&low.words())?;
        let down = Down {
            x: x.at,
            u: u.at,
            adapters,
            sequences: r.sequences.room(&self.device, n, 1, 1)?.at,
            inputs: x.width as u32,
            x_stride: x.stride as u32,
            u_stride: u.stride as u32,
            site: 0,
            sites: 1,
            max_active: 1,
        };
        self.device.launch(self.down, (n, u.width.div_ceil(8)), 256, &down)
    }

    /// Adds `Uᵀ X`, `[rank, width]`, to `sum`.
    fn gradient(
        &self,
        r: &mut Room,
        u: Rows,
        x: Rows,
        n: usize,
        sum: &mut [f32],
    ) -> Result<(), CudaError> {
        let g = r.gradient.room(&self.device, u.width, x.width, x.width)?;
        let gradient = Gradient {
            x: x.at,
            u: u.at,
            g: g.at,
            n: n as u32,
            width: x.width as u32,
            rank: u.width as u32,
            x_stride: x.stride as u32,
            u_stride: u.stride as u32,
            g_stride: g.stride as u32,
        };
        let grid = (x.width.div_ceil(SIDE), u.width.div_ceil(RANKS));
        self.device.launch(self.gradient, grid, 256, &gradient)?;
        r.gradient.add_to(g, sum)
    }
}
