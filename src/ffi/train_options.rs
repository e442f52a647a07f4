//! What a training run is told: the options as C has them, and their defaults.

use core::ffi::c_char;

use super::example::lowrank_example;
use super::limits::LOWRANK_PRECISION_EXACT;
use super::options::{self, Options};

/// `task`: the next token, of a decoder or an LSTM.
pub const LOWRANK_TASK_LM: u32 = 0;
/// `task`: one label for a whole text or row of numbers.
pub const LOWRANK_TASK_CLASSIFY: u32 = 1;

/// `method`: LoRA.
pub const LOWRANK_METHOD_LORA: u32 = 0;
/// `method`: LoRA; insists on a 4-bit base.
pub const LOWRANK_METHOD_QLORA: u32 = 1;
/// `method`: rank-stabilized LoRA, alpha / √rank.
pub const LOWRANK_METHOD_RSLORA: u32 = 2;
/// `method`: LoRA+, B learns faster than A.
pub const LOWRANK_METHOD_LORA_PLUS: u32 = 3;
/// `method`: DyLoRA, trained for all ranks up to `rank`; chooses one by the validation data, which
/// it needs.
pub const LOWRANK_METHOD_DYLORA: u32 = 4;
/// `method`: LoRA-FA, A keeps what it was drawn as.
pub const LOWRANK_METHOD_LORA_FA: u32 = 5;
/// `method`: DoRA, a trained magnitude per output row.
pub const LOWRANK_METHOD_DORA: u32 = 6;
/// `method`: the weights of a float base; the output is a base.
pub const LOWRANK_METHOD_FULL: u32 = 7;
/// `method`: IA3, a vector that scales keys, values and the inputs of the last feed-forward layer
/// (or the layers in `target_modules`). `rank`, `alpha` and `dropout` must be as
/// `lowrank_train_options_default` sets them.
pub const LOWRANK_METHOD_IA3: u32 = 8;

/// `optimizer`: AdamW, two f32 a parameter.
pub const LOWRANK_OPTIMIZER_ADAMW: u32 = 0;
/// `optimizer`: AdamW, two bytes a parameter.
pub const LOWRANK_OPTIMIZER_ADAMW_8BIT: u32 = 1;
/// `optimizer`: SGD with momentum 0.9.
pub const LOWRANK_OPTIMIZER_SGD: u32 = 2;

/// `schedule`: the learning rate stays.
pub const LOWRANK_SCHEDULE_CONSTANT: u32 = 0;
/// `schedule`: in a straight line to 0.
pub const LOWRANK_SCHEDULE_LINEAR: u32 = 1;
/// `schedule`: along half a cosine to 0.
pub const LOWRANK_SCHEDULE_COSINE: u32 = 2;

/// A training run. Start from `lowrank_train_options_default` and set `data` (or
/// `examples`) and `output`. Strings
/// are UTF-8 (paths on Unix: any bytes) with a NUL at their ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lowrank_train_options {
    /// The bytes of this struct as the program knows it; `lowrank_train_options_default` sets it.
    pub size: usize,
    /// The path of the training data: .txt, .jsonl, .tsv or .csv, as `lowrank train` takes it.
    pub data: *const c_char,
    /// The path of data that is measured after every epoch, or null.
    pub validation: *const c_char,
    /// The path of the archive to write. It appears whole or not at all.
    pub output: *const c_char,
    /// The path of checkpoints, or null for none. A run that is complete removes it.
    pub checkpoint: *const c_char,
    /// The path of an adapter of this base to go on from, or null. Its method, layers, ranks,
    /// alphas, scales and labels stay: `method`, `target_modules`, `rank` and `alpha` are not
    /// looked at. Of a classifier alone the labels stay, and all four are.
    pub adapter: *const c_char,
    /// Which layers: `all-linear`, names separated by commas, or a regular expression for module
    /// paths. Null is `all-linear`; of `LOWRANK_METHOD_IA3` the layers that PEFT scales.
    pub target_modules: *const c_char,
    /// The name of the result. Null: that of the output file without its extension.
    pub name: *const c_char,
    /// One of `LOWRANK_TASK_LM`, `LOWRANK_TASK_CLASSIFY`. A classifier's labels are those in the
    /// data.
    pub task: u32,
    /// One of `LOWRANK_METHOD_LORA`, `_QLORA`, `_RSLORA`, `_LORA_PLUS`, `_DYLORA`, `_LORA_FA`,
    /// `_DORA`, `_FULL`, `_IA3`. Default: `LOWRANK_METHOD_QLORA`, as on the
    /// command line.
    pub method: u32,
    /// One of `LOWRANK_OPTIMIZER_ADAMW`, `_ADAMW_8BIT`, `_SGD`.
    pub optimizer: u32,
    /// One of `LOWRANK_SCHEDULE_CONSTANT`, `_LINEAR`, `_COSINE`.
    pub schedule: u32,
    /// The rank of the factors.
    pub rank: usize,
    /// Passes over the data.
    pub epochs: u64,
    /// Optimizer steps instead of epochs, or 0.
    pub steps: u64,
    /// Examples of a batch.
    pub batch_size: usize,
    /// Batches of an optimizer step.
    pub accumulation: usize,
    /// Tokens of a sequence; longer ones are cut. 0 is 512, or the positions of the base if those
    /// are fewer.
    pub max_length: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Threads; 0 is one per core.
    pub threads: usize,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Steps between two validations; 0 is one after every epoch.
    pub validate_every: u64,
    /// Refuse in advance a run that would take more bytes (the base and the heap of the run,
    /// without tokenizer and data); 0 for no limit.
    pub memory_limit: u64,
    /// In how many steps the learning rate rises, or in which share of all (below 1).
    pub warmup: f64,
    /// alpha; 0 is twice the rank.
    pub alpha: f32,
    /// The learning rate at its highest.
    pub learning_rate: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Share of activations that are dropped before A.
    pub dropout: f32,
    /// Gradients are clipped to this global norm; 0 for not at all.
    pub max_norm: f32,
    /// Label smoothing.
    pub label_smoothing: f32,
    /// Stop after this many validations without a better one and keep the best; 0 keeps the last.
    pub patience: u32,
    /// Not 0: score completions and the assistant's turns only.
    pub completions_only: u32,
    /// Not 0: keep only the inputs of blocks and compute the rest again: less memory, more time.
    pub checkpointing: u32,
    /// How forward products with the frozen base treat their activations:
    /// `LOWRANK_PRECISION_EXACT` or `LOWRANK_PRECISION_FAST`.
    pub precision: u32,
    /// Not 0: go on from the checkpoint if there is one.
    pub resume: u32,
    /// Not 0: begin anew where there is the checkpoint of a run that was not finished, and replace
    /// it. With both 0 such a checkpoint is refused.
    pub restart: u32,
    /// Training data in memory instead of `data`, or null.
    pub examples: *const lowrank_example,
    /// Their number.
    pub example_count: usize,
}

// SAFETY: begins with its size; numbers and pointers without padding.
unsafe impl Options for lowrank_train_options {
    const FIRST: usize = FIRST;

    fn defaults() -> Self {
        lowrank_train_options_default()
    }
}

/// The bytes of the first version.
const FIRST: usize = core::mem::offset_of!(lowrank_train_options, restart) + size_of::<u32>();

/// The options of `lowrank train`: LoRA of rank 8 on all linear layers, alpha 16, one epoch in
/// batches of 8 sequences of at most 512 tokens, AdamW at 2e-4 falling in a straight line,
/// gradients clipped at 1, one thread per core, seed 0; no validation, no checkpoints.
pub fn lowrank_train_options_default() -> lowrank_train_options {
    let none = core::ptr::null();
    lowrank_train_options {
        size: size_of::<lowrank_train_options>(),
        data: none,
        validation: none,
        output: none,
        checkpoint: none,
        adapter: none,
        target_modules: none,
        name: none,
        task: LOWRANK_TASK_LM,
        method: LOWRANK_METHOD_QLORA,
        optimizer: LOWRANK_OPTIMIZER_ADAMW,
        schedule: LOWRANK_SCHEDULE_LINEAR,
        rank: 8,
        epochs: 1,
        steps: 0,
        batch_size: 8,
        accumulation: 1,
        max_length: 0,
        seed: 0,
        threads: 0,
        checkpoint_every: 100,
        validate_every: 0,
        memory_limit: 0,
        warmup: 0.0,
        alpha: 0.0,
        learning_rate: 2e-4,
        weight_decay: 0.0,
        dropout: 0.0,
        max_norm: 1.0,
        label_smoothing: 0.0,
        patience: 0,
        completions_only: 0,
        checkpointing: 0,
        precision: LOWRANK_PRECISION_EXACT,
        resume: 0,
        restart: 0,
        examples: core::ptr::null(),
        example_count: 0,
    }
}

/// Writes what `lowrank_train_options_default` returns to a struct of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lowrank_train_options_init(
    options: *mut lowrank_train_options,
    size: usize,
) {
    // SAFETY: the caller's promises.
    unsafe { options::init(options, size, lowrank_train_options_default()) };
}
