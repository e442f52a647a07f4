//! What may move to another thread and what several may share, promised in `runtime`'s
//! documentation: checked by the compiler.

use lowrank::Error;
use lowrank::adapter::{Active, Adapter, AdapterSet, Choice, Slot};
use lowrank::kernel::Kernels;
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::model::lstm::Lstm;
use lowrank::model::mlp::Mlp;
use lowrank::runtime::{
    Encoder, EncoderLimits, KvFormat, Limits, Need, Predictor, PredictorLimits, Recurrent,
    RecurrentLimits, Sampler, Serial, Session,
};

const fn both<T: Send + Sync>() {}
const fn moves<T: Send>() {}

const _: () = {
    both::<Llama<'static>>();
    both::<Bert<'static>>();
    both::<Lstm<'static>>();
    both::<Mlp<'static>>();
    both::<Adapter<'static>>();
    both::<Slot<'static>>();
    both::<Choice>();
    both::<Active<'static>>();
    both::<AdapterSet<'static, 'static>>();
    both::<Session<'static, 'static>>();
    both::<Encoder<'static, 'static>>();
    both::<Recurrent<'static, 'static>>();
    both::<Predictor<'static, 'static>>();
    both::<Sampler>();
    both::<KvFormat>();
    both::<EncoderLimits>();
    both::<RecurrentLimits>();
    both::<PredictorLimits>();
    both::<Limits>();
    both::<Need>();
    both::<Serial>();
    both::<&'static Kernels>();
    both::<Error>();
};

#[cfg(feature = "cuda")]
const _: () = {
    both::<lowrank::cuda::Device>();
    both::<lowrank::cuda::Model<'static>>();
    both::<lowrank::cuda::EncoderModel<'static>>();
    both::<lowrank::runtime::CudaSession<'static, 'static>>();
    both::<lowrank::runtime::CudaEncoder<'static, 'static>>();
    both::<lowrank::train::DeviceBase<'static>>();
};

#[cfg(feature = "std")]
const _: () = {
    use lowrank::adapter::{Pinned, SharedAdapter, SharedSet};
    use lowrank::archive::ArchiveFile;
    use lowrank::engine::{Engine, OwnedSession};
    moves::<Engine>();
    moves::<OwnedSession>();
    use lowrank::runtime::{Memory, Threads};
    use lowrank::text::{StreamDecoder, Tokenizer};
    use lowrank::train::data::Dataset;
    use lowrank::train::{AnyBase, Report, Trainer};
    both::<SharedAdapter>();
    both::<SharedSet<Llama<'static>>>();
    both::<Pinned>();
    both::<ArchiveFile>();
    both::<Memory>();
    both::<Threads>();
    both::<Tokenizer>();
    moves::<StreamDecoder<'static>>();
    both::<Dataset<'static>>();
    both::<AnyBase<'static>>();
    both::<Report>();
    both::<Trainer<'static>>();
};

/// The assertions above are the test; this one shows in the list that they were compiled.
#[test]
fn what_is_promised_compiles() {
    moves::<Session<'static, 'static>>();
}
