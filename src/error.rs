//! What can go wrong in the core: one small `Copy` enum that carries numbers.
//!
//! [`Error::code`] never changes for a variant and maps one to one to the C interface. Errors of
//! files and foreign formats (which need paths and keys) are `FileError`, behind `std`; they wrap
//! this type.

use core::fmt;

/// A result of the core.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Makes an enum of errors: variants with their fields, codes and messages. The C interface has one
/// of its own.
macro_rules! errors {
    ($(#[$meta:meta])* $vis:vis enum $Enum:ident;
     $($(#[doc = $doc:literal])+ $name:ident $({ $($field:ident : $ty:ty),+ })? = $code:literal, $message:literal;)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        #[non_exhaustive]
        $vis enum $Enum {
            $($(#[doc = $doc])+ #[allow(missing_docs, reason = "the message names every field")] $name $({ $($field: $ty),+ })?,)+
        }

        impl $Enum {
            /// The stable number of this error; 0 is never used (it means success in C).
            pub const fn code(&self) -> u32 {
                match self { $(Self::$name $({ $($field: _),+ })? => $code,)+ }
            }
        }

        #[cfg(feature = "capi")]
        impl $Enum {
            /// Every code with the name of its variant and the sentence that documents it, a space before and a NUL behind it.
            pub(crate) const CODES: &'static [(u32, &'static str, &'static str)] =
                &[$(($code, stringify!($name), concat!($($doc,)+ "\0"))),+];

            /// The numbers of this error in the order of its message, and how many there are.
            pub(crate) fn numbers(&self) -> ([u64; $crate::error::NUMBERS], usize) {
                match *self {
                    $(Self::$name $({ $($field),+ })? => $crate::error::padded([$($($crate::error::Number::to_number($field)),+)?]),)+
                }
            }

            /// The error with this code and these [`numbers`](Self::numbers), if there is one.
            pub(crate) fn from_numbers(code: u32, numbers: &[u64; $crate::error::NUMBERS]) -> Option<Self> {
                let mut numbers = numbers.iter();
                let found = match code {
                    $($code => Self::$name $({ $($field: $crate::error::Number::from_number(*numbers.next()?)?),+ })?,)+
                    _ => return None,
                };
                Some(found)
            }
        }

        impl core::fmt::Display for $Enum {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self { $(Self::$name $({ $($field),+ })? => write!(f, $message),)+ }
            }
        }
    };
}
#[cfg(feature = "capi")]
pub(crate) use errors;

errors! {
    /// An error of the core, with the numbers needed to understand it.
    ///
    /// `Display` is a full sentence with a hint. Codes are stable: a variant keeps its number forever.
    pub enum Error;
    /// The buffer does not start on a 64-byte boundary.
    Misaligned { remainder: usize } = 1,
        "the buffer must start on a 64-byte boundary, this one is {remainder} bytes past one";
    /// The buffer ends before the data does.
    Truncated { have: u64, need: u64 } = 2,
        "the archive is truncated or has bytes after its end: {have} bytes, its header announces {need}";
    /// The magic number is missing.
    NotAnArchive = 3, "this is not a lowrank archive (the magic number is missing)";
    /// The format version is not the one this build reads.
    FormatVersion { found: u32, supported: u32 } = 4,
        "archive format {found} cannot be read by this build (it reads {supported}); re-import the model";
    /// The root has another type than the caller asked for.
    WrongRoot { found: RootKind, expected: RootKind } = 5,
        "the archive holds {found}, {expected} was expected";
    /// A reserved header byte is not zero.
    Reserved { offset: usize } = 6,
        "reserved header byte {offset} is not zero: the file is damaged or from a newer version";
    /// The payload is not a valid archive of its root type.
    Invalid = 7, "the archive's structure is damaged (a pointer, length or tag is out of range)";
    /// The checksum does not match.
    Checksum { stored: u64, computed: u64 } = 8,
        "checksum mismatch: the header says {stored:016x}, the bytes give {computed:016x}; the file is damaged";
    /// A configuration value is outside its range.
    Config { field: Field, found: u64, least: u64, most: u64 } = 9,
        "{field} is {found}, expected {least} to {most}";
    /// A tensor has another shape than the configuration asks for.
    Shape { site: u32, rows: u64, cols: u64, expected_rows: u64, expected_cols: u64 } = 10,
        "tensor {site} has shape [{rows}, {cols}], expected [{expected_rows}, {expected_cols}]";
    /// A tensor's payload has another length than its shape and format ask for.
    PayloadLength { site: u32, have: u64, need: u64 } = 11,
        "the payload of tensor {site} has {have} bytes, its shape and format need {need}";
    /// A tensor names a format, layout or block size that this build does not know.
    Format { site: u32, format: u32, layout: u32, block: u32 } = 12,
        "tensor {site} has format {format}, layout {layout}, block size {block}: this build does not know the combination";
    /// A value that must be finite is not.
    NotFinite { site: u32, index: u64 } = 13,
        "value {index} of tensor {site} is not finite";
    /// The adapter was made for another base.
    OtherBase { adapter: u64, base: u64 } = 14,
        "the adapter was made for another base ({adapter:016x}…, this one is {base:016x}…); import it against this base";
    /// The adapter names a place that the base does not have.
    UnknownSite { site: u32, sites: u32 } = 15,
        "the adapter names tensor {site}, the base has {sites}";
    /// A rank is zero or larger than allowed.
    Rank { found: u32, most: u32 } = 16,
        "rank {found} does not fit: 1 to {most} is allowed";
    /// A run-time rank was asked of an adapter that has one rank (DoRA) or none (IA3).
    RankFixed { asked: u32, rank: u32 } = 17,
        "rank {asked} was asked of an adapter whose rank, {rank}, is fixed: DoRA's norm was computed with all of it, IA3 has no factors (rank 0)";
    /// The slot does not exist.
    NoSuchSlot { slot: u32, slots: u32 } = 18, "slot {slot} does not exist: the set has {slots}";
    /// The slot holds no adapter.
    EmptySlot { slot: u32 } = 19, "slot {slot} holds no adapter";
    /// The slot has moved on since the caller looked.
    StaleGeneration { slot: u32, expected: u64, current: u64 } = 20,
        "slot {slot} is at generation {current}, the caller expected {expected}: somebody replaced it";
    /// More adapters are active than the session has room for.
    TooManyActive { asked: usize, most: usize } = 21,
        "{asked} active adapters asked for, the session's limit is {most} (Limits::max_active)";
    /// The active ranks add up to more than the session has room for.
    TotalRank { asked: usize, most: usize } = 22,
        "the active adapters have rank {asked} together, the session's limit is {most} (Limits::max_total_rank)";
    /// The key-value cache was filled under other adapters.
    CacheOfOtherAdapters { sequence: usize, position: usize } = 23,
        "sequence {sequence} holds {position} tokens that were computed under other adapters; reset it first";
    /// The workspace is smaller than the session needs.
    WorkspaceTooSmall { need: usize, have: usize } = 24,
        "the workspace has {have} bytes, the session needs {need}";
    /// A limit is zero or larger than the model allows.
    Limit { field: Field, found: usize, most: usize } = 25,
        "{field} is {found}, 1 to {most} is allowed";
    /// The sequence index is outside the batch.
    NoSuchSequence { sequence: usize, batch: usize } = 26,
        "sequence {sequence} does not exist: the session was made for {batch}";
    /// A token id is outside the vocabulary.
    Token { token: u32, vocab: u32 } = 27,
        "token {token} is outside the vocabulary of {vocab}";
    /// The sequence is full.
    ContextFull { asked: usize, context: usize } = 28,
        "the context is full: {asked} tokens asked for, {context} fit (Limits::context)";
    /// No logits have been computed for this sequence.
    NoLogits { sequence: usize } = 29, "sequence {sequence} has no logits yet: feed it a token first";
    /// The logits hold NaN or nothing that can be chosen.
    BadLogits { index: usize } = 30,
        "logit {index} is not a number: the weights are damaged (run verify), or an adapter's weight is far too large";
    /// A sampling parameter is outside its range.
    Sampling { field: Field, found: f32 } = 31, "the sampling parameter {field} cannot be {found}";
    /// An input slice has another length than expected.
    Length { have: usize, need: usize } = 32, "{have} elements given, {need} expected";
    /// A value does not fit the weight format.
    Range { index: u64, value: f32 } = 33,
        "value {index} is {value}, which the weight format cannot hold; use f32";
    /// A weight given to an active adapter is not finite.
    AdapterWeight { slot: u32, weight: f32 } = 34,
        "slot {slot}: an adapter cannot have the weight {weight}";
    /// The block size is not one that NF4 or int8 knows.
    Block { found: usize } = 35,
        "block size {found} is not a power of two from 32 to 4096";
    /// Writing failed; the writer's owner knows why.
    Write = 36, "the archive could not be written";
    /// The same sequence appears twice in one step.
    DuplicateSequence { sequence: usize } = 37,
        "sequence {sequence} is named twice in one step";
    /// The adapter replaces whole tensors, which this build does not apply.
    ReplacedTensors { count: usize } = 38,
        "the adapter replaces {count} whole tensors (modules_to_save), which this build cannot apply";
    /// An embedding's adapter has parts that only linear layers have.
    EmbeddingExtras { site: u32 } = 39,
        "the adapter of the embedding (tensor {site}) has a bias or a DoRA magnitude: on embeddings only A and B can be applied";
    /// The adapter scales inputs that other layers read too.
    InputScaling { site: u32 } = 40,
        "the adapter scales the inputs of tensor {site} (IA3), which other layers read too: of this layer only the outputs can be scaled";
    /// Some of the adapter's targets scale (IA3), others have factors.
    MixedTargets { site: u32 } = 41,
        "tensor {site} is of another kind than the adapter's first: an adapter scales all its layers (IA3) or none";
    /// A token type is outside the model's.
    TokenType { found: u32, types: u32 } = 50, "token type {found} is outside the model's {types}";
    /// No text has been encoded in this sequence under its adapters.
    NotEncoded { sequence: usize } = 51, "sequence {sequence} holds no encoded text: encode one first (choosing adapters forgets it)";
    /// The pooler was asked for and the base has none.
    NoPooler = 52, "the base has no pooler: ask for the mean or the first token";
    /// Not exactly one of a sequence's adapters brings a classifier.
    Classifiers { sequence: usize, found: usize } = 53,
        "{found} of the adapters of sequence {sequence} bring a classifier, exactly one is needed";
    /// The base has no head of its own.
    NoHead = 60, "the base has no head of its own: choose an adapter that brings a classifier";
    /// A key or value is larger than an f16 cache holds.
    CacheOverflow { sequence: usize } = 70,
        "sequence {sequence} has a key or value above 65504, the largest number of an f16 cache: keep them in f32 (KvFormat::F32; --kv f32)";
    /// The slot holds an adapter already.
    SlotTaken { slot: u32, generation: u64 } = 71,
        "slot {slot} holds an adapter already (generation {generation}): replace it, or detach it first";
    /// No row of features with this number has been computed under its adapters.
    NotComputed { row: usize, rows: usize } = 72,
        "row {row} has no outputs: {rows} rows are computed (choosing adapters forgets them)";
    /// The device that a session runs on failed.
    Device = 74, "the device failed: open a new session, or use the CPU";
    /// The content is not what the fingerprint says, although the checksum is right.
    Content { stored: u64, computed: u64 } = 73,
        "fingerprint mismatch: the header says {stored:016x}…, the content gives {computed:016x}…; the file was changed after it was written";
    /// A classifier's label names are not one per row, or one is empty.
    Labels { names: u64, rows: u64 } = 54, "the classifier has {rows} rows and {names} usable label names: one each is needed";
}

impl core::error::Error for Error {}

macro_rules! fields {
    ($(#[$meta:meta])* $($name:ident = $text:literal,)+) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "the names are the documentation; Display spells them")]
        pub enum Field {
            $($name,)+
        }

        impl fmt::Display for Field {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)+ })
            }
        }

        #[cfg(feature = "capi")]
        impl Field {
            const ALL: &'static [Self] = &[$(Self::$name),+];
        }
    };
}

fields! {
    /// A named quantity in an error: a configuration field, a limit or a sampling parameter. New ones are added at the end.
    Vocab = "the vocabulary size",
    Dim = "the model dimension",
    Layers = "the number of layers",
    Heads = "the number of attention heads",
    KvHeads = "the number of key-value heads",
    HeadDim = "the head dimension",
    Hidden = "the feed-forward dimension",
    Context = "the context length",
    RopeTheta = "the rotary base (bits of its f32)",
    RopeScaling = "the kind of rotary scaling",
    NormEpsilon = "the norm's epsilon (bits of its f32)",
    Batch = "the batch size",
    PrefillChunk = "the prefill chunk",
    Threads = "the number of threads",
    MaxActive = "the number of active adapters",
    MaxTotalRank = "the total rank",
    Temperature = "temperature",
    TopK = "top-k",
    TopP = "top-p",
    RepetitionPenalty = "repetition penalty",
    Scale = "the adapter's scale (bits of its f32)",
    Targets = "the number of adapter targets",
    AddBos = "the add-BOS flag",
    LayerCount = "the number of stored layers",
    TokenTypes = "the number of token types",
    Activation = "the kind of activation",
    Pooling = "the kind of pooling",
    Normalize = "the normalize flag",
    MaxLength = "the length that texts are cut to",
    Tokens = "the number of tokens encoded at once",
    Head = "the kind of head",
    Inputs = "the number of input features",
    Outputs = "the number of outputs",
    HiddenSize = "the hidden size",
    Slots = "the number of slots",
    MinP = "min-p",
    Draft = "the draft length",
}

/// What an archive's root is: its kind and, for a base, its architecture. The number is stored in
/// the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootKind(pub u32);

impl RootKind {
    /// A base of the Llama family (Llama, Qwen2, Qwen3 decoders).
    pub const LLAMA: Self = Self(0x0001_0001);
    /// A base of the BERT family (encoders).
    pub const BERT: Self = Self(0x0001_0002);
    /// A base of LSTM layers.
    pub const LSTM: Self = Self(0x0001_0003);
    /// A base of plain linear layers.
    pub const MLP: Self = Self(0x0001_0004);
    /// A base of the BERT family with RoBERTa's parts (RoBERTa, XLM-R, CamemBERT).
    pub const ROBERTA: Self = Self(0x0001_0005);
    /// A base of the BERT family with DistilBERT's parts.
    pub const DISTILBERT: Self = Self(0x0001_0006);
    /// A low-rank adapter of any base.
    pub const ADAPTER: Self = Self(0x0002_0000);
    /// A training checkpoint.
    pub const CHECKPOINT: Self = Self(0x0003_0000);

    /// Is it an encoder: a base that [`Bert`](crate::model::bert::Bert) opens?
    pub const fn is_encoder(self) -> bool {
        matches!(self, Self::BERT | Self::ROBERTA | Self::DISTILBERT)
    }
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::LLAMA => "a Llama base",
            Self::BERT => "a BERT base",
            Self::LSTM => "an LSTM base",
            Self::MLP => "an MLP base",
            Self::ROBERTA => "a RoBERTa base",
            Self::DISTILBERT => "a DistilBERT base",
            Self::ADAPTER => "an adapter",
            Self::CHECKPOINT => "a training checkpoint",
            Self(other) => return write!(f, "an unknown root ({other:#010x})"),
        })
    }
}

/// The most numbers that an error carries.
#[cfg(feature = "capi")]
pub(crate) const NUMBERS: usize = 5;

/// Something that an error carries, as a number that C can hold.
#[cfg(feature = "capi")]
pub(crate) trait Number: Sized {
    /// The value; of an f32 its bits.
    fn to_number(self) -> u64;
    /// The value back, if it is one.
    fn from_number(number: u64) -> Option<Self>;
}

#[cfg(feature = "capi")]
macro_rules! whole_numbers {
    ($($ty:ty)+) => {$(
        impl Number for $ty {
            fn to_number(self) -> u64 {
                self as u64
            }

            fn from_number(number: u64) -> Option<Self> {
                number.try_into().ok()
            }
        }
    )+};
}
#[cfg(feature = "capi")]
whole_numbers!(u32 u64 usize);

#[cfg(feature = "capi")]
impl Number for f32 {
    fn to_number(self) -> u64 {
        self.to_bits().into()
    }

    fn from_number(number: u64) -> Option<Self> {
        u32::from_number(number).map(Self::from_bits)
    }
}

#[cfg(feature = "capi")]
impl Number for Field {
    fn to_number(self) -> u64 {
        self as u64
    }

    fn from_number(number: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

#[cfg(feature = "capi")]
impl Number for RootKind {
    fn to_number(self) -> u64 {
        self.0.into()
    }

    fn from_number(number: u64) -> Option<Self> {
        u32::from_number(number).map(Self)
    }
}

/// `numbers` with zeros behind them, and how many they were.
#[cfg(feature = "capi")]
pub(crate) fn padded<const N: usize>(numbers: [u64; N]) -> ([u64; NUMBERS], usize) {
    const { assert!(N <= NUMBERS) };
    let mut all = [0; NUMBERS];
    all[..N].copy_from_slice(&numbers);
    (all, N)
}
