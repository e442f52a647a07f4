//! What every command that runs a model shares: its options, the executor, a decoder's session.

#[cfg(not(feature = "cuda"))]
use std::convert::Infallible;
use std::path::PathBuf;
#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use lowrank::adapter::{AdapterSet, Slot};
#[cfg(feature = "cuda")]
use lowrank::cuda::Device as Card;
use lowrank::kernel::{Precision, by_name};
use lowrank::model::llama::Llama;
use lowrank::model::{AnyBase, has_fast};
use lowrank::runtime::{Executor, KvFormat, Limits, Memory, Serial, Session, Threads, need};
use lowrank::train::Trainer;

use crate::Failure;
use crate::attach::{OpenAdapter, attach};
use crate::files::File;
use crate::output::note;

/// The commands that a card runs.
const ON_CARDS: &str = "generate, logits, embed, classify, evaluate, bench and train";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kv {
    F32,
    F16,
    /// 8 bits with one scale per token and head
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionName {
    /// f32 activations
    Exact,
    /// activations rounded to 8 bits per 64, integer products
    Fast,
}

/// Options of every command that runs a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelOptions {
    /// The base archive
    #[arg(long, value_name = "FILE")]
    pub(crate) base: PathBuf,
    /// Copy the base into large pages of memory instead of mapping its file: decodes faster,
    /// cannot be shared or given up
    #[arg(long)]
    load: bool,
    /// Threads that compute; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) threads: usize,
    /// How products treat activations [default: exact where figures are compared, else what is
    /// measured to be as good]
    #[arg(long, value_enum)]
    precision: Option<PrecisionName>,
    /// Where to run
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub(crate) device: Device,
}

/// What a program says that knows no cards.
const WITHOUT: &str = "built without cuda: build it with --features cli,cuda (docs/cuda.md)";

impl ModelOptions {
    /// Opens the base for a command that runs on the CPU only.
    pub(crate) fn open(&self) -> Result<File, Failure> {
        match self.device {
            Device::Cpu => self.file(),
            Device::Cuda if cfg!(feature = "cuda") => {
                Err(format!("this command runs on the CPU only: --device cuda is for {ON_CARDS}")
                    .into())
            }
            Device::Cuda => Err(WITHOUT.into()),
        }
    }

    /// The first card, if the command is to run there.
    #[cfg(feature = "cuda")]
    pub(crate) fn card(&self) -> Result<Option<Arc<Card>>, Failure> {
        if self.device == Device::Cpu {
            return Ok(None);
        }
        if self.precision == Some(PrecisionName::Fast) {
            return Err("--precision fast: a card computes with exact activations".into());
        }
        Ok(Some(Card::open(0)?))
    }

    /// No card, which the command would otherwise run on.
    #[cfg(not(feature = "cuda"))]
    pub(crate) fn card(&self) -> Result<Option<Infallible>, Failure> {
        match self.device {
            Device::Cpu => Ok(None),
            Device::Cuda => Err(WITHOUT.into()),
        }
    }

    /// Hands products with frozen weights to the card, if the command is to run there.
    #[cfg(feature = "cuda")]
    pub(crate) fn place(
        &self,
        trainer: &mut Trainer<'_>,
        validates: bool,
        memory_limit: Option<u64>,
    ) -> Result<(), Failure> {
        let Some(card) = self.card()? else { return Ok(()) };
        if memory_limit.is_some() {
            return Err("--memory-limit: what a run with a card takes is not predicted".into());
        }
        trainer.use_device(&card)?;
        if validates {
            note("lowrank: validation data are measured on the CPU");
        }
        Ok(())
    }

    /// Refuses a card.
    #[cfg(not(feature = "cuda"))]
    pub(crate) fn place(
        &self,
        _: &mut Trainer<'_>,
        _: bool,
        _: Option<u64>,
    ) -> Result<(), Failure> {
        self.card().map(drop)
    }

    /// Opens the base, whatever the device.
    pub(crate) fn file(&self) -> Result<File, Failure> {
        let file = if self.load { File::load(&self.base)? } else { File::open(&self.base)? };
        if self.precision == Some(PrecisionName::Fast)
            && let Ok(base) = AnyBase::open(&file.map)
            && !has_fast(base.as_base())
        {
            note(format_args!(
                "lowrank: --precision fast: no effect, no layer of {} is nf4 or int8",
                file.path.display()
            ));
        }
        Ok(file)
    }

    pub(crate) fn executor(&self) -> Result<Box<dyn Executor>, Failure> {
        Ok(executor(self.threads)?)
    }

    /// The precision asked for; for commands whose figures are compared, exact unless told
    /// otherwise.
    pub(crate) fn exact_precision(&self) -> Precision {
        self.precision.map_or(Precision::Exact, Precision::from)
    }

    /// The limits of one sequence: those of the library, with the precision asked for.
    pub(crate) fn limits(
        &self,
        model: &Llama<'_>,
        context: usize,
        executor: &dyn Executor,
    ) -> Limits {
        let limits = Limits::for_model(model, context, executor);
        Limits { precision: self.precision.map_or(limits.precision, Precision::from), ..limits }
    }
}

impl From<PrecisionName> for Precision {
    fn from(name: PrecisionName) -> Self {
        match name {
            PrecisionName::Exact => Self::Exact,
            PrecisionName::Fast => Self::Fast,
        }
    }
}

impl From<Kv> for KvFormat {
    fn from(kv: Kv) -> Self {
        match kv {
            Kv::F32 => Self::F32,
            Kv::F16 => Self::F16,
            Kv::Int8 => Self::Int8,
        }
    }
}

/// What `--threads` asks for.
pub(crate) fn executor(threads: usize) -> Result<Box<dyn Executor + Send>, Failure> {
    if threads == 1 {
        return Ok(Box::new(Serial));
    }
    let made = Threads::new(threads);
    Ok(Box::new(made.map_err(|error| format!("--threads {threads}: {error}"))?))
}

/// Refuses a forced instruction set that is not there.
pub(crate) fn check_isa() -> Result<(), Failure> {
    let Some(name) = std::env::var_os("LOWRANK_ISA") else { return Ok(()) };
    if name.to_str().and_then(by_name).is_some() {
        return Ok(());
    }
    let known: Vec<_> = lowrank::kernel::available().map(|kernels| kernels.name()).collect();
    Err(format!("LOWRANK_ISA={}: this CPU offers {}", name.display(), known.join(", ")).into())
}

/// Calls `use_it` with a session in which `adapters` (with weights) are active in every sequence,
/// and the time that attaching them took.
pub(crate) fn with_session<T>(
    model: Llama<'_>,
    adapters: &[OpenAdapter],
    limits: Limits,
    executor: &dyn Executor,
    use_it: impl FnOnce(&mut Session<'_, '_>, Duration) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, &model);
    let attached = attach(&mut set, adapters)?;
    let limits = Limits { max_active: adapters.len(), max_total_rank: attached.rank, ..limits };
    let mut memory = Memory::try_new(need(model.config(), &limits))?;
    let mut session = Session::new(model, &limits, memory.as_mut(), executor)?;
    for sequence in 0..limits.batch {
        session.select(sequence, &set, &attached.choices)?;
    }
    use_it(&mut session, attached.time)
}
