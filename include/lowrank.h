/*
 * lowrank.h: one 4-bit base model with many swappable low-rank adapters, without a heap.
 *
 * Generated from src/ffi by the crate's tests (tests/header.rs). Do not edit. C99 and C++17.
 *
 * The rules of every function
 *
 * - Objects live in memory of the caller: at a multiple of LOWRANK_OBJECT_ALIGN, as large as its lowrank_..._bytes() says. For a static
 *   buffer take the constant LOWRANK_..._BYTES, e.g. `static uint64_t memory[LOWRANK_BASE_BYTES / 8];`. An open object must not be copied
 *   or moved. lowrank_..._open sets the pointer to it, or null where it fails; lowrank_..._close frees its memory for anything. Closing in
 *   the reverse order of opening is always right. What may be closed sooner: everything but what others lie over, which are files, the
 *   memory of archives and workspaces, and pools of threads. Only files, threads, texts and streams own more than their memory: those must
 *   be closed.
 * - Structs of options begin with their size. Start from lowrank_..._default(), which sets it and every default: then a program goes on
 *   working with later libraries, whose new options have their defaults, and with earlier ones, unless it sets what those do not know
 *   (LOWRANK_ERROR_OPTIONS_SIZE).
 * - Archives are used in place and never written: they start at a multiple of LOWRANK_MEMORY_ALIGN and stay, unchanged, as long as
 *   anything opened from them is used.
 * - A function returns LOWRANK_OK or a code. The last argument may be null, else it is filled when the function fails;
 *   lowrank_error_message makes a sentence of it. A function that failed has changed nothing, except where its comment says so.
 * - Null pointers, misaligned pointers, lengths past the end of the address space, arguments that overlap each other or memory that an
 *   object uses (the memory that an object is opened in excepted: close what was open there first), objects that were never opened, were closed or were copied: all refused with a code. What cannot be seen is a pointer to
 *   memory that is not there or shorter than said.
 * - Threads: bases, adapters, files, texts and pools are only read, by any number of threads. Sets, sessions (recurrent ones too),
 *   encoders, predictors, samplers and streams serve one call at a time; another one meanwhile, also from inside an executor's callback, gets LOWRANK_ERROR_BUSY. Closing an object while
 *   another thread uses it is not detected. Nothing blocks but training, evaluation, estimates and import, only these, files, pools,
 *   texts, streams and lowrank_generate allocate, and there are no globals; sessions on cards do, allocate, and share what is on a card. From an interrupt handler only objects may be used that nothing else uses.
 * - The hosted library catches its own panics (LOWRANK_ERROR_PANICKED); see lowrank_on_panic for the one without std.
 */


#ifndef LOWRANK_H
#define LOWRANK_H

#include <stddef.h>
#include <stdint.h>

/* What functions return. A code never changes its meaning; new ones may come. */
enum {
    LOWRANK_OK = 0,
    /* The buffer does not start on a 64-byte boundary. */
    LOWRANK_ERROR_MISALIGNED = 1,
    /* The buffer ends before the data does. */
    LOWRANK_ERROR_TRUNCATED = 2,
    /* The magic number is missing. */
    LOWRANK_ERROR_NOT_AN_ARCHIVE = 3,
    /* The format version is not the one this build reads. */
    LOWRANK_ERROR_FORMAT_VERSION = 4,
    /* The root has another type than the caller asked for. */
    LOWRANK_ERROR_WRONG_ROOT = 5,
    /* A reserved header byte is not zero. */
    LOWRANK_ERROR_RESERVED = 6,
    /* The payload is not a valid archive of its root type. */
    LOWRANK_ERROR_INVALID = 7,
    /* The checksum does not match. */
    LOWRANK_ERROR_CHECKSUM = 8,
    /* A configuration value is outside its range. */
    LOWRANK_ERROR_CONFIG = 9,
    /* A tensor has another shape than the configuration asks for. */
    LOWRANK_ERROR_SHAPE = 10,
    /* A tensor's payload has another length than its shape and format ask for. */
    LOWRANK_ERROR_PAYLOAD_LENGTH = 11,
    /* A tensor names a format, layout or block size that this build does not know. */
    LOWRANK_ERROR_FORMAT = 12,
    /* A value that must be finite is not. */
    LOWRANK_ERROR_NOT_FINITE = 13,
    /* The adapter was made for another base. */
    LOWRANK_ERROR_OTHER_BASE = 14,
    /* The adapter names a place that the base does not have. */
    LOWRANK_ERROR_UNKNOWN_SITE = 15,
    /* A rank is zero or larger than allowed. */
    LOWRANK_ERROR_RANK = 16,
    /* A run-time rank was asked of an adapter that has one rank (DoRA) or none (IA3). */
    LOWRANK_ERROR_RANK_FIXED = 17,
    /* The slot does not exist. */
    LOWRANK_ERROR_NO_SUCH_SLOT = 18,
    /* The slot holds no adapter. */
    LOWRANK_ERROR_EMPTY_SLOT = 19,
    /* The slot has moved on since the caller looked. */
    LOWRANK_ERROR_STALE_GENERATION = 20,
    /* More adapters are active than the session has room for. */
    LOWRANK_ERROR_TOO_MANY_ACTIVE = 21,
    /* The active ranks add up to more than the session has room for. */
    LOWRANK_ERROR_TOTAL_RANK = 22,
    /* The key-value cache was filled under other adapters. */
    LOWRANK_ERROR_CACHE_OF_OTHER_ADAPTERS = 23,
    /* The workspace is smaller than the session needs. */
    LOWRANK_ERROR_WORKSPACE_TOO_SMALL = 24,
    /* A limit is zero or larger than the model allows. */
    LOWRANK_ERROR_LIMIT = 25,
    /* The sequence index is outside the batch. */
    LOWRANK_ERROR_NO_SUCH_SEQUENCE = 26,
    /* A token id is outside the vocabulary. */
    LOWRANK_ERROR_TOKEN = 27,
    /* The sequence is full. */
    LOWRANK_ERROR_CONTEXT_FULL = 28,
    /* No logits have been computed for this sequence. */
    LOWRANK_ERROR_NO_LOGITS = 29,
    /* The logits hold NaN or nothing that can be chosen. */
    LOWRANK_ERROR_BAD_LOGITS = 30,
    /* A sampling parameter is outside its range. */
    LOWRANK_ERROR_SAMPLING = 31,
    /* An input slice has another length than expected. */
    LOWRANK_ERROR_LENGTH = 32,
    /* A value does not fit the weight format. */
    LOWRANK_ERROR_RANGE = 33,
    /* A weight given to an active adapter is not finite. */
    LOWRANK_ERROR_ADAPTER_WEIGHT = 34,
    /* The block size is not one that NF4 or int8 knows. */
    LOWRANK_ERROR_BLOCK = 35,
    /* Writing failed; the writer's owner knows why. */
    LOWRANK_ERROR_WRITE = 36,
    /* The same sequence appears twice in one step. */
    LOWRANK_ERROR_DUPLICATE_SEQUENCE = 37,
    /* The adapter replaces whole tensors, which this build does not apply. */
    LOWRANK_ERROR_REPLACED_TENSORS = 38,
    /* An embedding's adapter has parts that only linear layers have. */
    LOWRANK_ERROR_EMBEDDING_EXTRAS = 39,
    /* The adapter scales inputs that other layers read too. */
    LOWRANK_ERROR_INPUT_SCALING = 40,
    /* Some of the adapter's targets scale (IA3), others have factors. */
    LOWRANK_ERROR_MIXED_TARGETS = 41,
    /* A token type is outside the model's. */
    LOWRANK_ERROR_TOKEN_TYPE = 50,
    /* No text has been encoded in this sequence under its adapters. */
    LOWRANK_ERROR_NOT_ENCODED = 51,
    /* The pooler was asked for and the base has none. */
    LOWRANK_ERROR_NO_POOLER = 52,
    /* Not exactly one of a sequence's adapters brings a classifier. */
    LOWRANK_ERROR_CLASSIFIERS = 53,
    /* The base has no head of its own. */
    LOWRANK_ERROR_NO_HEAD = 60,
    /* A key or value is larger than an f16 cache holds. */
    LOWRANK_ERROR_CACHE_OVERFLOW = 70,
    /* The slot holds an adapter already. */
    LOWRANK_ERROR_SLOT_TAKEN = 71,
    /* No row of features with this number has been computed under its adapters. */
    LOWRANK_ERROR_NOT_COMPUTED = 72,
    /* The device that a session runs on failed. */
    LOWRANK_ERROR_DEVICE = 74,
    /* The content is not what the fingerprint says, although the checksum is right. */
    LOWRANK_ERROR_CONTENT = 73,
    /* A classifier's label names are not one per row, or one is empty. */
    LOWRANK_ERROR_LABELS = 54,
    /* A pointer that must not be null is null. */
    LOWRANK_ERROR_NULL_POINTER = 1000,
    /* A pointer is not aligned as its type asks for. */
    LOWRANK_ERROR_MISALIGNED_POINTER = 1001,
    /* A length is larger than any memory. */
    LOWRANK_ERROR_TOO_LONG = 1002,
    /* Two arguments share memory, or one lies in memory that an object uses. */
    LOWRANK_ERROR_OVERLAP = 1003,
    /* The pointer is to no open object of this type: never opened, closed, moved or overwritten. */
    LOWRANK_ERROR_NOT_AN_OBJECT = 1004,
    /* The memory for an object is too small. */
    LOWRANK_ERROR_OBJECT_TOO_SMALL = 1005,
    /* The object is in use: by another thread, or by the call that is running this callback. */
    LOWRANK_ERROR_BUSY = 1006,
    /* The buffer is too small for the result; nothing was written to it. */
    LOWRANK_ERROR_BUFFER_TOO_SMALL = 1007,
    /* A constant is none of those that the header names. */
    LOWRANK_ERROR_UNKNOWN_CONSTANT = 1008,
    /* A bug in the library: it panicked. The objects of this call are closed. */
    LOWRANK_ERROR_PANICKED = 1009,
    /* Text could not be encoded, decoded or rendered; the sentence says why. */
    LOWRANK_ERROR_TEXT = 1010,
    /* A file could not be read; the sentence says why. */
    LOWRANK_ERROR_FILE = 1011,
    /* Text is not UTF-8. */
    LOWRANK_ERROR_NOT_UTF8 = 1012,
    /* More adapters are chosen at once than this interface can pass on. */
    LOWRANK_ERROR_TOO_MANY_CHOICES = 1013,
    /* The operating system did not start a thread; the sentence says why. */
    LOWRANK_ERROR_THREADS = 1014,
    /* A training run was refused: options, data or base do not fit; the sentence says why. */
    LOWRANK_ERROR_TRAIN = 1015,
    /* Training diverged; the last good numbers, if a step left some, are in the output file; the sentence says which. */
    LOWRANK_ERROR_DIVERGED = 1016,
    /* A struct of options has a size that no version of it has, or sets what this library does not know. */
    LOWRANK_ERROR_OPTIONS_SIZE = 1017,
    /* An adapter is chosen with weight 0. */
    LOWRANK_ERROR_NO_WEIGHT = 1018,
    /* The library was built without support of cards. */
    LOWRANK_ERROR_WITHOUT_CUDA = 1019,
};

/* Memory that is enough for a set with this many slots. */
#define LOWRANK_SET_BYTES(slots) (LOWRANK_SET_HEAD_BYTES + (size_t)(slots) * LOWRANK_SLOT_BYTES)

/* The adapter in a slot as it was trained: `lowrank_choice choice = LOWRANK_CHOICE(0);`, or in an array of them. */
#define LOWRANK_CHOICE(slot) {(uint32_t)(slot), 1.0f, 0}


/**
 * Room for the sentence in `lowrank_error`, the NUL included.
 */
#define LOWRANK_DETAIL_BYTES 192

/**
 * The most numbers of an error.
 */
#define LOWRANK_NUMBERS 5

/**
 * `lowrank_features`: files and threads are there (the library was built with `std`).
 */
#define LOWRANK_FEATURE_STD 1

/**
 * `lowrank_features`: an executor is used. Processors without atomic read-modify-write (Cortex-M0)
 * do all the work themselves.
 */
#define LOWRANK_FEATURE_EXECUTOR 2

/**
 * `lowrank_features`: objects refuse use by two threads at once for certain, not just mostly.
 */
#define LOWRANK_FEATURE_LOCKS 4

/**
 * `lowrank_features`: texts, streams, chats and `lowrank_generate` are there (`text`).
 */
#define LOWRANK_FEATURE_TEXT 8

/**
 * `lowrank_features`: bases and adapters of other programs are imported (`import`).
 */
#define LOWRANK_FEATURE_IMPORT 16

/**
 * `lowrank_features`: training, evaluation and estimates of memory are there (`train`).
 */
#define LOWRANK_FEATURE_TRAIN 32

/**
 * `lowrank_features`: sessions run on NVIDIA GPUs too (the library was built with `cuda`).
 */
#define LOWRANK_FEATURE_CUDA 64

/**
 * Every object's memory starts at a multiple of this.
 */
#define LOWRANK_OBJECT_ALIGN 8

/**
 * Workspaces and archives start at a multiple of this.
 */
#define LOWRANK_MEMORY_ALIGN 64

/**
 * Memory that is enough for a base object on every target.
 */
#define LOWRANK_BASE_BYTES 448

/**
 * No token, where one could be.
 */
#define LOWRANK_NO_TOKEN UINT32_MAX

/**
 * `kind`: a decoder of the Llama family (Llama, Qwen2, Qwen3).
 */
#define LOWRANK_KIND_LLAMA 65537

/**
 * `kind`: an encoder of the BERT family.
 */
#define LOWRANK_KIND_BERT 65538

/**
 * `kind`: LSTM layers.
 */
#define LOWRANK_KIND_LSTM 65539

/**
 * `kind`: a multilayer perceptron.
 */
#define LOWRANK_KIND_MLP 65540

/**
 * `kind`: an encoder of the BERT family with RoBERTa's parts.
 */
#define LOWRANK_KIND_ROBERTA 65541

/**
 * `kind`: an encoder of the BERT family with DistilBERT's parts.
 */
#define LOWRANK_KIND_DISTILBERT 65542

/**
 * `kind`: an adapter of any base.
 */
#define LOWRANK_KIND_ADAPTER 131072

/**
 * `kind`: the checkpoint of a training run.
 */
#define LOWRANK_KIND_CHECKPOINT 196608

/**
 * Memory that is enough for an adapter object on every target.
 */
#define LOWRANK_ADAPTER_BYTES 96

/**
 * Memory that is enough for a set without its slots on every target.
 */
#define LOWRANK_SET_HEAD_BYTES 512

/**
 * Memory that is enough for one slot on every target.
 */
#define LOWRANK_SLOT_BYTES 64

/**
 * The most adapters that can be chosen at once.
 */
#define LOWRANK_MAX_CHOICES 32

/**
 * Memory that is enough for a sampler object on every target.
 */
#define LOWRANK_SAMPLER_BYTES 96

/**
 * The bytes of `scratch` that `lowrank_sampler_sample` takes for each logit.
 */
#define LOWRANK_SCRATCH_BYTES 8

/**
 * `kv_format`: keys and values take 4 bytes a number.
 */
#define LOWRANK_KV_F32 0

/**
 * `kv_format`: keys and values take 2 bytes a number.
 */
#define LOWRANK_KV_F16 1

/**
 * `kv_format`: keys and values take 1 byte a number, and 4 for the scale of each token and head.
 */
#define LOWRANK_KV_INT8 2

/**
 * `precision`: f32 activations; the same tokens on every target.
 */
#define LOWRANK_PRECISION_EXACT 0

/**
 * `precision`: activations rounded to 8 bits where the weights allow it; faster.
 */
#define LOWRANK_PRECISION_FAST 1

/**
 * `device`: the processor that the library runs on.
 */
#define LOWRANK_DEVICE_CPU 0

/**
 * `device`: an NVIDIA GPU, in libraries that were built with it (`LOWRANK_FEATURE_CUDA`).
 */
#define LOWRANK_DEVICE_CUDA 1

/**
 * The most that `draft` may be.
 */
#define LOWRANK_MOST_DRAFT 32

/**
 * Memory that is enough for a session object, without its workspace, on every target.
 */
#define LOWRANK_SESSION_BYTES 1536

/**
 * `lowrank_encoder_pooled`: the mean of all tokens.
 */
#define LOWRANK_POOLING_MEAN 0

/**
 * `lowrank_encoder_pooled`: the first token.
 */
#define LOWRANK_POOLING_CLS 1

/**
 * `lowrank_encoder_pooled`: BERT's pooler over the first token.
 */
#define LOWRANK_POOLING_POOLER 2

/**
 * Memory that is enough for an encoder object, without its workspace, on every target.
 */
#define LOWRANK_ENCODER_BYTES 1024

/**
 * Memory that is enough for a recurrent object, without its workspace, on every target.
 */
#define LOWRANK_RECURRENT_BYTES 1536

/**
 * Memory that is enough for a predictor object, without its workspace, on every target.
 */
#define LOWRANK_PREDICTOR_BYTES 1024

/**
 * Memory that is enough for a file object on every target.
 */
#define LOWRANK_FILE_BYTES 64

/**
 * Memory that is enough for a pool object on every target.
 */
#define LOWRANK_THREADS_BYTES 96

/**
 * Memory that is enough for a text object on every target (the tokenizer itself is on the heap).
 */
#define LOWRANK_TEXT_BYTES 64

/**
 * Memory that is enough for a stream object on every target.
 */
#define LOWRANK_STREAM_BYTES 256

/**
 * `lowrank_tokenize`, `lowrank_detokenize`: special tokens are parsed in text, and written out.
 */
#define LOWRANK_SPECIAL 1

/**
 * `lowrank_tokenize`: a prompt; the begin-of-sequence token comes first where the model's rule
 * asks for one. Implies `LOWRANK_SPECIAL`.
 */
#define LOWRANK_PROMPT 2

/**
 * `ended`: with a token that ends a turn.
 */
#define LOWRANK_ENDED_STOP 0

/**
 * `ended`: with the most tokens that were asked for.
 */
#define LOWRANK_ENDED_LENGTH 1

/**
 * `ended`: the sequence has no room for more.
 */
#define LOWRANK_ENDED_CONTEXT 2

/**
 * `ended`: the program said so.
 */
#define LOWRANK_ENDED_PROGRAM 3

/**
 * `factors`: A and B keep the source's type, f32 or f16.
 */
#define LOWRANK_FACTORS_AS_IS 0

/**
 * `factors`: A and B become f32.
 */
#define LOWRANK_FACTORS_F32 1

/**
 * `factors`: A and B become f16.
 */
#define LOWRANK_FACTORS_F16 2

/**
 * `factors`: A and B become 8 bits with one scale per row.
 */
#define LOWRANK_FACTORS_INT8 3

/**
 * `weights`, `embedding`: nf4 and 8 bits, but what a bitsandbytes checkpoint left in float stays
 * so.
 */
#define LOWRANK_FORMAT_DEFAULT 0

/**
 * `weights`, `embedding`: 4-bit NormalFloat with double quantization.
 */
#define LOWRANK_FORMAT_NF4 1

/**
 * `weights`, `embedding`: 8 bits.
 */
#define LOWRANK_FORMAT_INT8 2

/**
 * `weights`, `embedding`: 16 bits.
 */
#define LOWRANK_FORMAT_F16 3

/**
 * `weights`, `embedding`: 32 bits.
 */
#define LOWRANK_FORMAT_F32 4

/**
 * `task`: the next token, of a decoder or an LSTM.
 */
#define LOWRANK_TASK_LM 0

/**
 * `task`: one label for a whole text or row of numbers.
 */
#define LOWRANK_TASK_CLASSIFY 1

/**
 * `method`: LoRA.
 */
#define LOWRANK_METHOD_LORA 0

/**
 * `method`: LoRA; insists on a 4-bit base.
 */
#define LOWRANK_METHOD_QLORA 1

/**
 * `method`: rank-stabilized LoRA, alpha / √rank.
 */
#define LOWRANK_METHOD_RSLORA 2

/**
 * `method`: LoRA+, B learns faster than A.
 */
#define LOWRANK_METHOD_LORA_PLUS 3

/**
 * `method`: DyLoRA, trained for all ranks up to `rank`; chooses one by the validation data, which
 * it needs.
 */
#define LOWRANK_METHOD_DYLORA 4

/**
 * `method`: LoRA-FA, A keeps what it was drawn as.
 */
#define LOWRANK_METHOD_LORA_FA 5

/**
 * `method`: DoRA, a trained magnitude per output row.
 */
#define LOWRANK_METHOD_DORA 6

/**
 * `method`: the weights of a float base; the output is a base.
 */
#define LOWRANK_METHOD_FULL 7

/**
 * `method`: IA3, a vector that scales keys, values and the inputs of the last feed-forward layer
 * (or the layers in `target_modules`). `rank`, `alpha` and `dropout` must be as
 * `lowrank_train_options_default` sets them.
 */
#define LOWRANK_METHOD_IA3 8

/**
 * `optimizer`: AdamW, two f32 a parameter.
 */
#define LOWRANK_OPTIMIZER_ADAMW 0

/**
 * `optimizer`: AdamW, two bytes a parameter.
 */
#define LOWRANK_OPTIMIZER_ADAMW_8BIT 1

/**
 * `optimizer`: SGD with momentum 0.9.
 */
#define LOWRANK_OPTIMIZER_SGD 2

/**
 * `schedule`: the learning rate stays.
 */
#define LOWRANK_SCHEDULE_CONSTANT 0

/**
 * `schedule`: in a straight line to 0.
 */
#define LOWRANK_SCHEDULE_LINEAR 1

/**
 * `schedule`: along half a cosine to 0.
 */
#define LOWRANK_SCHEDULE_COSINE 2

/**
 * What `lowrank_train_watch` returns: go on.
 */
#define LOWRANK_TRAIN_CONTINUE 0

/**
 * What `lowrank_train_watch` returns: stop; there is a checkpoint, if one was asked for, and no
 * result.
 */
#define LOWRANK_TRAIN_STOP 1

/**
 * What `lowrank_train_watch` returns: what was learnt so far is the result, as if the run had been
 * this long.
 */
#define LOWRANK_TRAIN_KEEP 2

/**
 * An opened low-rank adapter. Only read, like a base; attaching it copies a few words, so it may
 * be closed after that. Its archive must stay until every set that has it, and every session that
 * chose it, is closed or has another.
 */
typedef struct lowrank_adapter lowrank_adapter;

/**
 * An opened base model: a decoder (`lowrank_base_open`), an encoder (`lowrank_bert_open`), LSTM
 * layers (`lowrank_lstm_open`) or a multilayer perceptron (`lowrank_mlp_open`).
 *
 * It is only read: any number of threads may use it at once. Sets and sessions made from it keep
 * what they need of it, so it may be closed before them; the archive must stay until the last of
 * them is closed.
 */
typedef struct lowrank_base lowrank_base;

/**
 * Runs an encoder's base over texts, each under its own adapters, in a workspace of the caller.
 * Text i of a batch is sequence i. One thread at a time; a second one gets `LOWRANK_ERROR_BUSY`.
 */
typedef struct lowrank_encoder lowrank_encoder;

/**
 * An archive that the library keeps in memory: a file that is mapped, or what a training run has
 * made (`lowrank_train_in_memory`). Files, pools, texts and streams are only in libraries with
 * `LOWRANK_FEATURE_STD`.
 */
typedef struct lowrank_file lowrank_file;

/**
 * Runs rows of features through a multilayer perceptron, each row under its own adapters, in a
 * workspace of the caller. Row i of a batch is sequence i. One thread at a time; a second one gets
 * `LOWRANK_ERROR_BUSY`.
 */
typedef struct lowrank_predictor lowrank_predictor;

/**
 * Sequences that LSTM layers read, each under its own adapters, in a workspace of the caller. One
 * thread at a time; a second one gets `LOWRANK_ERROR_BUSY`.
 */
typedef struct lowrank_recurrent lowrank_recurrent;

/**
 * Chooses tokens. One thread at a time; any number of sessions.
 */
typedef struct lowrank_sampler lowrank_sampler;

/**
 * Sequences that a base continues, each under its own adapters, in a workspace of the caller. One
 * thread at a time; a second one gets `LOWRANK_ERROR_BUSY`.
 */
typedef struct lowrank_session lowrank_session;

/**
 * Slots for adapters of one base. What an application swaps: a session copies what it chooses, so
 * a swap never touches it.
 *
 * One thread at a time; a second one gets `LOWRANK_ERROR_BUSY` and may try again.
 */
typedef struct lowrank_set lowrank_set;

/**
 * Decodes tokens that come one by one, without ever giving half a character. One thread at a time.
 */
typedef struct lowrank_stream lowrank_stream;

/**
 * The tokenizer and chat template of a base, read once. Any number of threads may use it; the base
 * may be closed before it.
 */
typedef struct lowrank_text lowrank_text;

/**
 * A pool of threads of the library, for programs that have none of their own.
 */
typedef struct lowrank_threads lowrank_threads;

/**
 * What a function returns: 0 (`LOWRANK_OK`), or one of the codes above. A code never changes its
 * meaning.
 */
typedef uint32_t lowrank_code;

/**
 * What went wrong, with its numbers. A function that is given one fills it when it fails and
 * leaves it alone otherwise; what it held does not matter. Plain data: it may be copied, and it
 * needs no closing.
 */
typedef struct lowrank_error {
    /**
     * The code that the function returned.
     */
    lowrank_code code;
    /**
     * How many of `numbers` there are.
     */
    uint32_t count;
    /**
     * The numbers in the order in which the sentence of `lowrank_error_message` has them; of a
     * float its bits.
     */
    uint64_t numbers[LOWRANK_NUMBERS];
    /**
     * For text, file, thread, training and device errors: the sentence, UTF-8, with a NUL at its end, cut
     * where room ends. Else empty.
     */
    char detail[LOWRANK_DETAIL_BYTES];
} lowrank_error;

/**
 * What is known of a base. Numbers that its family does not have are 0.
 */
typedef struct lowrank_base_info {
    /**
     * The family: `LOWRANK_KIND_LLAMA`, `_BERT`, `_ROBERTA`, `_DISTILBERT`, `_LSTM` or `_MLP`.
     */
    uint32_t kind;
    /**
     * Tokens in the vocabulary.
     */
    uint32_t vocab;
    /**
     * Width of the hidden states: what classifiers of adapters read.
     */
    uint32_t dim;
    /**
     * Blocks, or layers.
     */
    uint32_t layers;
    /**
     * The longest sequence that the model allows, in tokens; 0 for any length.
     */
    uint32_t context;
    /**
     * The longest text that the model's source reads, in tokens with the special ones, at most
     * the context. Of a decoder the context.
     */
    uint32_t max_length;
    /**
     * Features of a row that a multilayer perceptron reads.
     */
    uint32_t inputs;
    /**
     * Numbers that come out for a token or a row: a decoder's vocabulary, the outputs of an LSTM's
     * head or of a multilayer perceptron.
     */
    uint32_t outputs;
    /**
     * Label names that the base has for its outputs (`lowrank_base_label`).
     */
    uint32_t labels;
    /**
     * The begin-of-sequence token, or `LOWRANK_NO_TOKEN`.
     */
    uint32_t bos;
    /**
     * The token to put before every prompt, or `LOWRANK_NO_TOKEN`.
     */
    uint32_t leading_bos;
    /**
     * Places that adapters can change.
     */
    uint32_t sites;
    /**
     * Counted upwards by whoever publishes the archive.
     */
    uint64_t content_version;
    /**
     * The hash of the content: what adapters are bound to.
     */
    uint8_t fingerprint[16];
    /**
     * The name, UTF-8 in the archive, without a NUL.
     */
    const char *name;
    /**
     * Its length.
     */
    size_t name_bytes;
} lowrank_base_info;

/**
 * What is known of an adapter.
 */
typedef struct lowrank_adapter_info {
    /**
     * Layers that it changes.
     */
    uint32_t targets;
    /**
     * The largest rank among them.
     */
    uint32_t max_rank;
    /**
     * Labels of the classifier that it brings; 0 if it brings none.
     */
    uint32_t labels;
    /**
     * The hash of its content.
     */
    uint8_t fingerprint[16];
    /**
     * The hash of the base that it was made for.
     */
    uint8_t base[16];
    /**
     * The name, UTF-8 in the archive, without a NUL.
     */
    const char *name;
    /**
     * Its length.
     */
    size_t name_bytes;
} lowrank_adapter_info;

/**
 * How tokens are chosen. Start from `lowrank_sampling_default`, which takes the largest logit.
 */
typedef struct lowrank_sampling {
    /**
     * The bytes of this struct as the program knows it; `lowrank_sampling_default` sets it.
     */
    size_t size;
    /**
     * Divides the logits; 0 always takes the largest.
     */
    float temperature;
    /**
     * Only the most probable tokens that reach this probability together, above 0 to 1; 1 means
     * all.
     */
    float top_p;
    /**
     * Logits of tokens already in the sequence are divided (if positive) or multiplied by it,
     * above 0; 1 means none.
     */
    float repetition_penalty;
    /**
     * Only the k largest logits; 0 means all.
     */
    uint32_t top_k;
    /**
     * The same seed draws the same tokens.
     */
    uint64_t seed;
    /**
     * Only tokens that are at least this share as probable as the most probable one, from 0 to 1;
     * 0 means all.
     */
    float min_p;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_sampling;

/**
 * What a session must have room for, and where it runs. Start from `lowrank_limits_default`.
 */
typedef struct lowrank_limits {
    /**
     * The bytes of this struct as the program knows it; `lowrank_limits_default` sets it.
     */
    size_t size;
    /**
     * The longest sequence, in tokens.
     */
    size_t context;
    /**
     * Sequences side by side.
     */
    size_t batch;
    /**
     * Prompt tokens computed at once.
     */
    size_t prefill_chunk;
    /**
     * Parts that the work is split into: as many as the executor has threads. Results do not
     * depend on it.
     */
    size_t threads;
    /**
     * Adapters that one sequence can have at a time, at most `LOWRANK_MAX_CHOICES`.
     */
    size_t max_active;
    /**
     * The sum of their ranks.
     */
    size_t max_total_rank;
    /**
     * One of `LOWRANK_KV_F16`, `LOWRANK_KV_F32`, `LOWRANK_KV_INT8`.
     */
    uint32_t kv_format;
    /**
     * One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
     */
    uint32_t precision;
    /**
     * One of `LOWRANK_DEVICE_CPU`, `LOWRANK_DEVICE_CUDA`. On a card the workspace has the books only;
     * keys, values and activations are there. All sessions over an archive share its copy on the
     * card. Precision is exact, keys and values are f16 or f32, `threads` and executor do not matter.
     */
    uint32_t device;
    /**
     * Which card, 0 being the first.
     */
    uint32_t card;
    /**
     * Tokens at most that `lowrank_generate` guesses ahead by prompt lookup, up to
     * `LOWRANK_MOST_DRAFT`: replies that repeat parts of their prompt come faster. 0, the default,
     * means none; on a card it is 0.
     */
    size_t draft;
} lowrank_limits;

/**
 * The size of a workspace.
 */
typedef struct lowrank_need {
    /**
     * Bytes, exactly: one less is an error.
     */
    size_t bytes;
    /**
     * The part of them that keeps keys and values.
     */
    size_t kv_bytes;
} lowrank_need;

/**
 * A part of the work: takes the next part that nobody has, computes it, and returns. From any
 * thread, also several at once.
 */
typedef void (*lowrank_task)(void *argument);

/**
 * Threads or tasks of the caller that share the work of a session.
 */
typedef struct lowrank_executor {
    /**
     * Calls `task(argument)` `tasks` times, on any threads, and returns when all of these calls
     * have returned. `context` is the one beside it. Null: the calling thread does
     * everything. It is called many times for each token, so waking threads should be
     * cheap. It must not use the session that it works for.
     */
    void (*run)(void *context, size_t tasks, lowrank_task task, void *argument);
    /**
     * Handed to `run`.
     */
    void *context;
} lowrank_executor;

/**
 * One adapter of a choice. `lowrank_choice choice = LOWRANK_CHOICE(slot);` takes it as it was
 * trained.
 */
typedef struct lowrank_choice {
    /**
     * The slot of the set.
     */
    uint32_t slot;
    /**
     * 1 is as trained, other values scale its effect. 0 is refused (`LOWRANK_ERROR_NO_WEIGHT`): to
     * switch an adapter off, choose without it.
     */
    float weight;
    /**
     * A rank below the trained one (DyLoRA), or 0 for all of it. Refused for DoRA.
     */
    uint32_t rank;
} lowrank_choice;

/**
 * One token of a step.
 */
typedef struct lowrank_next {
    /**
     * The sequence that it continues.
     */
    size_t sequence;
    /**
     * The token.
     */
    uint32_t token;
} lowrank_next;

/**
 * The tokens by which one sequence goes on.
 */
typedef struct lowrank_chunk {
    /**
     * The sequence that they continue.
     */
    size_t sequence;
    /**
     * Its next tokens.
     */
    const uint32_t *tokens;
    /**
     * How many; at least one.
     */
    size_t count;
} lowrank_chunk;

/**
 * What an encoder must have room for. Start from `lowrank_encoder_limits_default`.
 */
typedef struct lowrank_encoder_limits {
    /**
     * The bytes of this struct as the program knows it; `lowrank_encoder_limits_default` sets it.
     */
    size_t size;
    /**
     * The longest text, in tokens.
     */
    size_t context;
    /**
     * Texts encoded at once.
     */
    size_t batch;
    /**
     * Tokens of all those texts together: texts are packed, so memory depends on this.
     */
    size_t tokens;
    /**
     * Parts that the work is split into: as many as the executor has threads. Results do not
     * depend on it.
     */
    size_t threads;
    /**
     * Adapters that one text can have at a time, at most `LOWRANK_MAX_CHOICES`.
     */
    size_t max_active;
    /**
     * The sum of their ranks.
     */
    size_t max_total_rank;
    /**
     * One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
     */
    uint32_t precision;
    /**
     * One of `LOWRANK_DEVICE_CPU`, `LOWRANK_DEVICE_CUDA`, as in `lowrank_limits`.
     */
    uint32_t device;
    /**
     * Which card, 0 being the first.
     */
    uint32_t card;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_encoder_limits;

/**
 * What a recurrent session must have room for. Start from `lowrank_recurrent_limits_default`.
 */
typedef struct lowrank_recurrent_limits {
    /**
     * The bytes of this struct as the program knows it; `lowrank_recurrent_limits_default` sets
     * it.
     */
    size_t size;
    /**
     * Sequences side by side.
     */
    size_t batch;
    /**
     * Tokens of one sequence computed at once.
     */
    size_t prefill_chunk;
    /**
     * Parts that the work is split into: as many as the executor has threads. Results do not
     * depend on it.
     */
    size_t threads;
    /**
     * Adapters that one sequence can have at a time, at most `LOWRANK_MAX_CHOICES`.
     */
    size_t max_active;
    /**
     * The sum of their ranks.
     */
    size_t max_total_rank;
    /**
     * One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
     */
    uint32_t precision;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_recurrent_limits;

/**
 * What a predictor must have room for. Start from `lowrank_predictor_limits_default`.
 */
typedef struct lowrank_predictor_limits {
    /**
     * The bytes of this struct as the program knows it; `lowrank_predictor_limits_default` sets
     * it.
     */
    size_t size;
    /**
     * Rows of features computed at once.
     */
    size_t batch;
    /**
     * Parts that the work is split into: as many as the executor has threads. Results do not
     * depend on it.
     */
    size_t threads;
    /**
     * Adapters that one row can have at a time, at most `LOWRANK_MAX_CHOICES`.
     */
    size_t max_active;
    /**
     * The sum of their ranks.
     */
    size_t max_total_rank;
    /**
     * One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
     */
    uint32_t precision;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_predictor_limits;

/**
 * A function that is told where in the library's source a panic happened: the file's name (not
 * ended by a NUL), its length, the line. It should not return; if it does, the library waits
 * forever.
 */
typedef void (*lowrank_panic_hook)(const char *file, size_t file_bytes, uint32_t line);

/**
 * A message of a conversation. The strings need no NUL at their ends.
 */
typedef struct lowrank_message {
    /**
     * `system`, `user` or `assistant`.
     */
    const char *role;
    /**
     * Its length.
     */
    size_t role_bytes;
    /**
     * What was said, UTF-8.
     */
    const char *content;
    /**
     * Its length.
     */
    size_t content_bytes;
} lowrank_message;

/**
 * A variable for the chat template. The strings need no NUL at their ends.
 */
typedef struct lowrank_template_variable {
    /**
     * Its name, UTF-8: `enable_thinking`, `tools` …
     */
    const char *name;
    /**
     * Its length.
     */
    size_t name_bytes;
    /**
     * Its value, UTF-8: JSON, or else text.
     */
    const char *value;
    /**
     * Its length.
     */
    size_t value_bytes;
} lowrank_template_variable;

/**
 * Is given the next piece of a reply, `bytes` bytes of UTF-8 that never end inside a character,
 * without a NUL; returns 0 to go on, anything else to end the reply. `context` is what
 * `lowrank_generate` was given. The session, sampler and text are in use meanwhile.
 */
typedef uint32_t (*lowrank_piece)(void *context, const char *piece, size_t bytes);

/**
 * What a reply was.
 */
typedef struct lowrank_reply {
    /**
     * Tokens of the prompt, the one that begins the sequence included.
     */
    size_t prompt_tokens;
    /**
     * Tokens of the reply: they are in the sequence now.
     */
    size_t tokens;
    /**
     * One of the `LOWRANK_ENDED_` constants.
     */
    uint32_t ended;
} lowrank_reply;

/**
 * How an adapter is imported. Start from `lowrank_adapter_import_options_default`. Strings have a
 * NUL at their ends.
 */
typedef struct lowrank_adapter_import_options {
    /**
     * The bytes of this struct as the program knows it;
     * `lowrank_adapter_import_options_default` sets it.
     */
    size_t size;
    /**
     * The adapter's name, or null: the folder's or the file's.
     */
    const char *name;
    /**
     * Names for the labels of a PEFT directory's classifier: one a line, in the order of its rows.
     * Null: the names that the directory has, else `LABEL_0`, `LABEL_1`, … .
     */
    const char *labels;
    /**
     * One of `LOWRANK_FACTORS_AS_IS`, `_F32`, `_F16`, `_INT8`.
     */
    uint32_t factors;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_adapter_import_options;

/**
 * How a base is imported. Start from `lowrank_import_options_default`.
 */
typedef struct lowrank_import_options {
    /**
     * The bytes of this struct as the program knows it; `lowrank_import_options_default` sets it.
     */
    size_t size;
    /**
     * Weights per block of nf4 and int8: a power of two from 32 to 4096.
     */
    size_t block;
    /**
     * What is written into the header: counted upwards by whoever publishes the archive.
     */
    uint64_t content_version;
    /**
     * The format of the linear layers, one of the `LOWRANK_FORMAT_` constants.
     */
    uint32_t weights;
    /**
     * The format of the embedding of tokens and the output head, one of them.
     */
    uint32_t embedding;
    /**
     * Not 0: read no tokenizer.
     */
    uint32_t without_tokenizer;
    /**
     * Not 0: the scales of nf4 blocks are chosen by the error they leave, not by the largest
     * weight (`lowrank import --fit`).
     */
    uint32_t fit;
} lowrank_import_options;

/**
 * One training example; set the rest to null and 0. What is set says what it is: `text` alone is
 * learnt whole, `text` and `completion` are a prompt and what should follow it, `text` and `label`
 * a text to classify; `tokens` stand for a text as they are, alone or with a `label`; `features`
 * and `label` are a row of numbers to classify. Strings are UTF-8 with a NUL at their ends. All of
 * it is read during the call only.
 */
typedef struct lowrank_example {
    /**
     * A text, or a prompt.
     */
    const char *text;
    /**
     * What should follow the prompt, without what ends it.
     */
    const char *completion;
    /**
     * The label, one line.
     */
    const char *label;
    /**
     * Token ids, special ones included.
     */
    const uint32_t *tokens;
    /**
     * Their number.
     */
    size_t token_count;
    /**
     * Numbers; as many in every row.
     */
    const float *features;
    /**
     * Their number.
     */
    size_t feature_count;
} lowrank_example;

/**
 * A training run. Start from `lowrank_train_options_default` and set `data` (or
 * `examples`) and `output`. Strings
 * are UTF-8 (paths on Unix: any bytes) with a NUL at their ends.
 */
typedef struct lowrank_train_options {
    /**
     * The bytes of this struct as the program knows it; `lowrank_train_options_default` sets it.
     */
    size_t size;
    /**
     * The path of the training data: .txt, .jsonl, .tsv or .csv, as `lowrank train` takes it.
     */
    const char *data;
    /**
     * The path of data that is measured after every epoch, or null.
     */
    const char *validation;
    /**
     * The path of the archive to write. It appears whole or not at all.
     */
    const char *output;
    /**
     * The path of checkpoints, or null for none. A run that is complete removes it.
     */
    const char *checkpoint;
    /**
     * The path of an adapter of this base to go on from, or null. Its method, layers, ranks,
     * alphas, scales and labels stay: `method`, `target_modules`, `rank` and `alpha` are not
     * looked at. Of a classifier alone the labels stay, and all four are.
     */
    const char *adapter;
    /**
     * Which layers: `all-linear`, names separated by commas, or a regular expression for module
     * paths. Null is `all-linear`; of `LOWRANK_METHOD_IA3` the layers that PEFT scales.
     */
    const char *target_modules;
    /**
     * The name of the result. Null: that of the output file without its extension.
     */
    const char *name;
    /**
     * One of `LOWRANK_TASK_LM`, `LOWRANK_TASK_CLASSIFY`. A classifier's labels are those in the
     * data.
     */
    uint32_t task;
    /**
     * One of `LOWRANK_METHOD_LORA`, `_QLORA`, `_RSLORA`, `_LORA_PLUS`, `_DYLORA`, `_LORA_FA`,
     * `_DORA`, `_FULL`, `_IA3`. Default: `LOWRANK_METHOD_QLORA`, as on the
     * command line.
     */
    uint32_t method;
    /**
     * One of `LOWRANK_OPTIMIZER_ADAMW`, `_ADAMW_8BIT`, `_SGD`.
     */
    uint32_t optimizer;
    /**
     * One of `LOWRANK_SCHEDULE_CONSTANT`, `_LINEAR`, `_COSINE`.
     */
    uint32_t schedule;
    /**
     * The rank of the factors.
     */
    size_t rank;
    /**
     * Passes over the data.
     */
    uint64_t epochs;
    /**
     * Optimizer steps instead of epochs, or 0.
     */
    uint64_t steps;
    /**
     * Examples of a batch.
     */
    size_t batch_size;
    /**
     * Batches of an optimizer step.
     */
    size_t accumulation;
    /**
     * Tokens of a sequence; longer ones are cut. 0 is 512, or the positions of the base if those
     * are fewer.
     */
    size_t max_length;
    /**
     * Everything random follows from it.
     */
    uint64_t seed;
    /**
     * Threads; 0 is one per core.
     */
    size_t threads;
    /**
     * Steps between two checkpoints.
     */
    uint64_t checkpoint_every;
    /**
     * Steps between two validations; 0 is one after every epoch.
     */
    uint64_t validate_every;
    /**
     * Refuse in advance a run that would take more bytes (the base and the heap of the run,
     * without tokenizer and data); 0 for no limit.
     */
    uint64_t memory_limit;
    /**
     * In how many steps the learning rate rises, or in which share of all (below 1).
     */
    double warmup;
    /**
     * alpha; 0 is twice the rank.
     */
    float alpha;
    /**
     * The learning rate at its highest.
     */
    float learning_rate;
    /**
     * Weight decay.
     */
    float weight_decay;
    /**
     * Share of activations that are dropped before A.
     */
    float dropout;
    /**
     * Gradients are clipped to this global norm; 0 for not at all.
     */
    float max_norm;
    /**
     * Label smoothing.
     */
    float label_smoothing;
    /**
     * Stop after this many validations without a better one and keep the best; 0 keeps the last.
     */
    uint32_t patience;
    /**
     * Not 0: score completions and the assistant's turns only.
     */
    uint32_t completions_only;
    /**
     * Not 0: keep only the inputs of blocks and compute the rest again: less memory, more time.
     */
    uint32_t checkpointing;
    /**
     * How forward products with the frozen base treat their activations:
     * `LOWRANK_PRECISION_EXACT` or `LOWRANK_PRECISION_FAST`.
     */
    uint32_t precision;
    /**
     * Not 0: go on from the checkpoint if there is one.
     */
    uint32_t resume;
    /**
     * Not 0: begin anew where there is the checkpoint of a run that was not finished, and replace
     * it. With both 0 such a checkpoint is refused.
     */
    uint32_t restart;
    /**
     * Training data in memory instead of `data`, or null.
     */
    const struct lowrank_example *examples;
    /**
     * Their number.
     */
    size_t example_count;
} lowrank_train_options;

/**
 * What a run tells while it goes on.
 */
typedef struct lowrank_train_progress {
    /**
     * Optimizer steps taken.
     */
    uint64_t step;
    /**
     * Those of the whole run.
     */
    uint64_t total;
    /**
     * The loss of the step, or of the validation data.
     */
    double loss;
    /**
     * Of validation data with labels, else a NaN.
     */
    double accuracy;
    /**
     * 1 if the validation data was measured, 0 if a step was taken.
     */
    uint32_t is_validation;
} lowrank_train_progress;

/**
 * Is told what a run does, on the thread that called `lowrank_train`; returns
 * `LOWRANK_TRAIN_CONTINUE`, `LOWRANK_TRAIN_KEEP`, or anything else to stop. `context` is what
 * `lowrank_train` was given. It must return; it may use objects of the library like any other
 * code.
 */
typedef uint32_t (*lowrank_train_watch)(void *context, const struct lowrank_train_progress *progress);

/**
 * What a run did.
 */
typedef struct lowrank_train_report {
    /**
     * Optimizer steps taken, those before a resume included.
     */
    uint64_t steps;
    /**
     * Rows (tokens) that went through the model.
     */
    uint64_t rows;
    /**
     * Numbers that are trained.
     */
    uint64_t trainable_parameters;
    /**
     * The mean training loss of the last twentieth of the run.
     */
    double loss;
    /**
     * Seconds, without validation.
     */
    double seconds;
    /**
     * The loss of the validation data with what was kept, or a NaN.
     */
    double validation_loss;
    /**
     * Its accuracy, of labels, or a NaN.
     */
    double validation_accuracy;
    /**
     * The rank that was kept: `rank`, or what DyLoRA chose.
     */
    uint32_t rank;
    /**
     * 1 if the callback stopped the run (`LOWRANK_TRAIN_STOP`): then there is a checkpoint, if one
     * was asked for, and no result.
     */
    uint32_t stopped;
    /**
     * Examples of the training data.
     */
    uint64_t examples;
    /**
     * How many of them were cut at `max_length` tokens.
     */
    uint64_t cut;
    /**
     * Records that were left out because nothing in them is scored.
     */
    uint64_t left_out;
    /**
     * Labels of the training data; 0 for a language model.
     */
    uint32_t labels;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_train_report;

/**
 * What a run is estimated to take.
 */
typedef struct lowrank_train_memory {
    /**
     * Numbers that are trained.
     */
    uint64_t trainable_parameters;
    /**
     * The most bytes on the heap at once, without tokenizer and data.
     */
    uint64_t heap_bytes;
    /**
     * That and the base's archive together: what `memory_limit` is compared with.
     */
    uint64_t peak_bytes;
} lowrank_train_memory;

/**
 * An adapter archive in memory, and how strongly it works.
 */
typedef struct lowrank_weighted_archive {
    /**
     * The archive, at a multiple of `LOWRANK_MEMORY_ALIGN`.
     */
    const void *archive;
    /**
     * Its length.
     */
    size_t archive_bytes;
    /**
     * 1 is as trained. A classifier is not scaled.
     */
    float weight;
} lowrank_weighted_archive;

/**
 * What is measured, and how. Start from `lowrank_evaluate_options_default` and set `data`.
 */
typedef struct lowrank_evaluate_options {
    /**
     * The bytes of this struct as the program knows it; `lowrank_evaluate_options_default` sets
     * it.
     */
    size_t size;
    /**
     * The path of the data, as `lowrank evaluate` takes it; a NUL at its end.
     */
    const char *data;
    /**
     * Adapters of the base that are active, or null.
     */
    const struct lowrank_weighted_archive *adapters;
    /**
     * Their number.
     */
    size_t adapter_count;
    /**
     * Tokens of a sequence; longer ones are cut. 0 is 512, or the positions of the base if those
     * are fewer.
     */
    size_t max_length;
    /**
     * Threads; 0 is one per core.
     */
    size_t threads;
    /**
     * One of `LOWRANK_TASK_LM`, `LOWRANK_TASK_CLASSIFY`; the labels are those of the last adapter
     * that brings a classifier, else the base's own.
     */
    uint32_t task;
    /**
     * Not 0: score completions and the assistant's turns only.
     */
    uint32_t completions_only;
    /**
     * One of `LOWRANK_PRECISION_EXACT`, `LOWRANK_PRECISION_FAST`.
     */
    uint32_t precision;
    /**
     * 0.
     */
    uint32_t reserved;
} lowrank_evaluate_options;

/**
 * What a model does on data.
 */
typedef struct lowrank_metrics {
    /**
     * The mean loss of everything scored, in nats.
     */
    double loss;
    /**
     * exp(loss).
     */
    double perplexity;
    /**
     * The share of labels that were right, or a NaN.
     */
    double accuracy;
    /**
     * F1 of the second of two labels, of more the mean of all (macro), or a NaN.
     */
    double f1;
    /**
     * Tokens or sequences that were scored.
     */
    uint64_t scored;
    /**
     * Examples.
     */
    uint64_t examples;
    /**
     * How many of them were cut at `max_length` tokens.
     */
    uint64_t cut;
    /**
     * Records that were left out because nothing in them is scored.
     */
    uint64_t left_out;
} lowrank_metrics;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a code means, in one sentence without numbers: a static string, never null.
 */
const char *lowrank_code_text(lowrank_code code);

/**
 * Writes the sentence of `error` with its numbers and a hint into `buffer` (UTF-8, NUL at its end,
 * cut where `capacity` ends) and returns the length of the whole sentence without the NUL, as
 * `snprintf` does. Both pointers null, or one that cannot be used: 0.
 *
 * Programs that link statically and never call this don't carry the sentences.
 */
size_t lowrank_error_message(const struct lowrank_error *error, char *buffer, size_t capacity);

/**
 * The library's version, a static string such as "0.1.0".
 */
const char *lowrank_version(void);

/**
 * What this build can do: a sum of `LOWRANK_FEATURE_` constants. Bits that the header does not
 * name are to be ignored.
 */
uint32_t lowrank_features(void);

/**
 * Writes the name of the instruction set in use ("scalar", "avx2" …) into `buffer`, with a NUL at
 * its end, cut where `capacity` ends; returns the length of the whole name without the NUL. A
 * buffer that cannot be used: 0.
 */
size_t lowrank_isa(char *buffer, size_t capacity);

/**
 * Writes to `*kind` what an archive of `archive_bytes` bytes holds, as its header says: one of the
 * `LOWRANK_KIND_` constants, or a number that this library does not know. It says which function
 * opens it.
 */
lowrank_code lowrank_archive_kind(const void *archive,
                                  size_t archive_bytes,
                                  uint32_t *kind,
                                  struct lowrank_error *error);

/**
 * Reads a whole archive, of a base that `lowrank_base_open` takes or of an adapter (other
 * families: `lowrank_bert_verify`, `lowrank_lstm_verify`, `lowrank_mlp_verify`): its checksum, and
 * every value that must be finite. Opening does not: it takes microseconds, and a damaged archive
 * that was opened gives wrong numbers or an error, never an access outside its bytes.
 */
lowrank_code lowrank_verify(const void *archive, size_t archive_bytes, struct lowrank_error *error);

/**
 * Reads the whole archive of an encoder, as `lowrank_verify` reads that of a decoder.
 */
lowrank_code lowrank_bert_verify(const void *archive, size_t archive_bytes, struct lowrank_error *error);

/**
 * Reads the whole archive of LSTM layers, as `lowrank_verify` reads that of a decoder.
 */
lowrank_code lowrank_lstm_verify(const void *archive, size_t archive_bytes, struct lowrank_error *error);

/**
 * Reads the whole archive of a multilayer perceptron, as `lowrank_verify` reads that of a decoder.
 */
lowrank_code lowrank_mlp_verify(const void *archive, size_t archive_bytes, struct lowrank_error *error);

/**
 * Opens a decoder over an archive of `archive_bytes` bytes, in place, in `memory` of at least
 * `lowrank_base_bytes()` bytes.
 *
 * The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, until the base
 * and all sets and sessions made from it are closed. Its weights are not read. On success `*base`
 * is the object, on failure null.
 */
lowrank_code lowrank_base_open(void *memory,
                               size_t memory_bytes,
                               const void *archive,
                               size_t archive_bytes,
                               struct lowrank_base **base,
                               struct lowrank_error *error);

/**
 * Opens an encoder of the BERT family, as `lowrank_base_open` opens a decoder. Sets take it like
 * any base; `lowrank_encoder` runs it.
 */
lowrank_code lowrank_bert_open(void *memory,
                               size_t memory_bytes,
                               const void *archive,
                               size_t archive_bytes,
                               struct lowrank_base **base,
                               struct lowrank_error *error);

/**
 * Opens LSTM layers, as `lowrank_base_open` opens a decoder. `lowrank_recurrent` runs them.
 */
lowrank_code lowrank_lstm_open(void *memory,
                               size_t memory_bytes,
                               const void *archive,
                               size_t archive_bytes,
                               struct lowrank_base **base,
                               struct lowrank_error *error);

/**
 * Opens a multilayer perceptron, as `lowrank_base_open` opens a decoder. `lowrank_predictor` runs
 * it.
 */
lowrank_code lowrank_mlp_open(void *memory,
                              size_t memory_bytes,
                              const void *archive,
                              size_t archive_bytes,
                              struct lowrank_base **base,
                              struct lowrank_error *error);

/**
 * Writes what is known of a base to `*info`.
 */
lowrank_code lowrank_base_get_info(const struct lowrank_base *base,
                                   struct lowrank_base_info *info,
                                   struct lowrank_error *error);

/**
 * Points `*name` at the name that a base has for one of its outputs (from 0), `*name_bytes` bytes
 * of UTF-8 without a NUL, in its archive. A base with fewer names is `LOWRANK_ERROR_LENGTH`.
 */
lowrank_code lowrank_base_label(const struct lowrank_base *base,
                                uint32_t label,
                                const char **name,
                                size_t *name_bytes,
                                struct lowrank_error *error);

/**
 * Does `token` end a turn? 1 or 0 in `*stops`; of a base that generates nothing always 0.
 */
lowrank_code lowrank_base_is_stop(const struct lowrank_base *base,
                                  uint32_t token,
                                  uint32_t *stops,
                                  struct lowrank_error *error);

/**
 * Closes a base. Sets and sessions made from it go on.
 */
lowrank_code lowrank_base_close(struct lowrank_base *base, struct lowrank_error *error);

/**
 * The bytes that a base object takes, exactly; `LOWRANK_BASE_BYTES` is enough on every target.
 */
size_t lowrank_base_bytes(void);

/**
 * Opens an adapter over an archive, in place, in `memory` of at least `lowrank_adapter_bytes()`
 * bytes; reads its values once.
 *
 * The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, as long as the
 * adapter is used by anything. Whether it fits a base is checked when it is attached. On success
 * `*adapter` is the object, on failure null.
 */
lowrank_code lowrank_adapter_open(void *memory,
                                  size_t memory_bytes,
                                  const void *archive,
                                  size_t archive_bytes,
                                  struct lowrank_adapter **adapter,
                                  struct lowrank_error *error);

/**
 * Writes what is known of an adapter to `*info`.
 */
lowrank_code lowrank_adapter_get_info(const struct lowrank_adapter *adapter,
                                      struct lowrank_adapter_info *info,
                                      struct lowrank_error *error);

/**
 * Points `*name` at the name of a label (from 0) of an adapter's classifier, `*name_bytes` bytes
 * of UTF-8 without a NUL, in its archive. An adapter with fewer labels, or without a classifier,
 * is `LOWRANK_ERROR_LENGTH`.
 */
lowrank_code lowrank_adapter_label(const struct lowrank_adapter *adapter,
                                   uint32_t label,
                                   const char **name,
                                   size_t *name_bytes,
                                   struct lowrank_error *error);

/**
 * Closes an adapter. Where it was attached it stays.
 */
lowrank_code lowrank_adapter_close(struct lowrank_adapter *adapter, struct lowrank_error *error);

/**
 * The bytes that an adapter object takes, exactly; `LOWRANK_ADAPTER_BYTES` is enough on every
 * target.
 */
size_t lowrank_adapter_bytes(void);

/**
 * The bytes that a set with `slots` slots takes, exactly; `LOWRANK_SET_BYTES(slots)` is enough on
 * every target. 0 for more than 65,536.
 */
size_t lowrank_set_bytes(uint32_t slots);

/**
 * Makes an empty set of `slots` slots (1 to 65,536) for adapters of `base`, in `memory` of at
 * least `lowrank_set_bytes(slots)` bytes. On success `*set` is the object, on failure null.
 */
lowrank_code lowrank_set_open(void *memory,
                              size_t memory_bytes,
                              const struct lowrank_base *base,
                              uint32_t slots,
                              struct lowrank_set **set,
                              struct lowrank_error *error);

/**
 * Puts an adapter into an empty slot (numbered from 0). `generation` may be null, else it gets the
 * slot's new generation. A slot that is taken is `LOWRANK_ERROR_SLOT_TAKEN`; an adapter of
 * another base is refused and says so.
 */
lowrank_code lowrank_set_attach(struct lowrank_set *set,
                                uint32_t slot,
                                const struct lowrank_adapter *adapter,
                                uint64_t *generation,
                                struct lowrank_error *error);

/**
 * Puts an adapter into a slot if its generation is still `expected`, and tells the new one as
 * `lowrank_set_attach` does: compare and swap. If somebody else was there first
 * (`LOWRANK_ERROR_STALE_GENERATION`), or the adapter does not fit, the old one stays.
 */
lowrank_code lowrank_set_replace(struct lowrank_set *set,
                                 uint32_t slot,
                                 uint64_t expected,
                                 const struct lowrank_adapter *adapter,
                                 uint64_t *generation,
                                 struct lowrank_error *error);

/**
 * Empties a slot if its generation is still `expected`, and tells the new one as
 * `lowrank_set_attach` does. Sessions that chose the adapter keep it.
 */
lowrank_code lowrank_set_detach(struct lowrank_set *set,
                                uint32_t slot,
                                uint64_t expected,
                                uint64_t *generation,
                                struct lowrank_error *error);

/**
 * Writes the generation of a slot to `*generation`, and to `*occupied` 1 if it holds an adapter,
 * else 0. Either may be null.
 */
lowrank_code lowrank_set_get(struct lowrank_set *set,
                             uint32_t slot,
                             uint64_t *generation,
                             uint32_t *occupied,
                             struct lowrank_error *error);

/**
 * Closes a set. Sessions go on with what they chose.
 */
lowrank_code lowrank_set_close(struct lowrank_set *set, struct lowrank_error *error);

/**
 * Writes what `lowrank_sampling_default` returns to a struct of `size` bytes.
 */
void lowrank_sampling_init(struct lowrank_sampling *sampling, size_t size);

/**
 * Makes a sampler in `memory` of at least `lowrank_sampler_bytes()` bytes. `sampling` may be null:
 * the largest logit. On success `*sampler` is the object, on failure null.
 */
lowrank_code lowrank_sampler_open(void *memory,
                                  size_t memory_bytes,
                                  const struct lowrank_sampling *sampling,
                                  struct lowrank_sampler **sampler,
                                  struct lowrank_error *error);

/**
 * Chooses a token from `count` logits that the program has made, as a copy of a session's that it
 * changed, and writes it to `*token`. `history` are the `history_count` tokens that the repetition
 * penalty counts. `scratch` has `LOWRANK_SCRATCH_BYTES` bytes for each logit, at a multiple of 4;
 * what it holds does not matter.
 */
lowrank_code lowrank_sampler_sample(struct lowrank_sampler *sampler,
                                    const float *logits,
                                    size_t count,
                                    const uint32_t *history,
                                    size_t history_count,
                                    void *scratch,
                                    size_t scratch_bytes,
                                    uint32_t *token,
                                    struct lowrank_error *error);

/**
 * Closes a sampler.
 */
lowrank_code lowrank_sampler_close(struct lowrank_sampler *sampler, struct lowrank_error *error);

/**
 * The bytes that a sampler object takes, exactly; `LOWRANK_SAMPLER_BYTES` is enough on every
 * target.
 */
size_t lowrank_sampler_bytes(void);

/**
 * Writes what `lowrank_limits_default` returns to a struct of `size` bytes.
 */
void lowrank_limits_init(struct lowrank_limits *limits, size_t size, size_t context);

/**
 * Writes to `*limits`, a struct of `size` bytes, what suits a decoder and this machine, as the
 * command line runs it: one sequence of `context` tokens, the precision that is measured to be
 * good for its weights, the work in `threads` parts: as many as the executor has threads
 * (`lowrank_threads_executor` tells them), 1 without one. The rest is as in
 * `lowrank_limits_default`.
 */
lowrank_code lowrank_limits_for_model(const struct lowrank_base *base,
                                      size_t context,
                                      size_t threads,
                                      struct lowrank_limits *limits,
                                      size_t size,
                                      struct lowrank_error *error);

/**
 * Writes the size of the workspace that a session over `base` takes under `limits` to `*need`.
 * `lowrank memory --firmware` prints it beforehand, as a line of C.
 */
lowrank_code lowrank_session_need(const struct lowrank_base *base,
                                  const struct lowrank_limits *limits,
                                  struct lowrank_need *need,
                                  struct lowrank_error *error);

/**
 * Makes a session over `base` in `memory` of at least `lowrank_session_bytes()` bytes, with
 * `workspace` of at least `lowrank_session_need` bytes at a multiple of `LOWRANK_MEMORY_ALIGN`;
 * what the two hold does not matter. Both stay, and are not touched, until the session is closed.
 * `executor` is copied; it may be null: the calling thread does everything. `limits` say where the
 * session runs; a card that cannot be used is `LOWRANK_ERROR_DEVICE`, with the driver's words in the
 * error. On success `*session` is the object, on failure null.
 */
lowrank_code lowrank_session_open(void *memory,
                                  size_t memory_bytes,
                                  const struct lowrank_base *base,
                                  const struct lowrank_limits *limits,
                                  void *workspace,
                                  size_t workspace_bytes,
                                  const struct lowrank_executor *executor,
                                  struct lowrank_session **session,
                                  struct lowrank_error *error);

/**
 * Chooses the adapters of a sequence: `count` of them, 0 for the base alone. The session keeps
 * them: later swaps in `set` don't touch it, and the set may be closed. A sequence that holds
 * tokens computed under other adapters is `LOWRANK_ERROR_CACHE_OF_OTHER_ADAPTERS`: reset it first.
 * On an error the previous choice stays.
 */
lowrank_code lowrank_session_select(struct lowrank_session *session,
                                    size_t sequence,
                                    struct lowrank_set *set,
                                    const struct lowrank_choice *choices,
                                    size_t count,
                                    struct lowrank_error *error);

/**
 * Appends `count` tokens to a sequence and computes the logits after the last one. On an error
 * nothing has changed.
 */
lowrank_code lowrank_session_prefill(struct lowrank_session *session,
                                     size_t sequence,
                                     const uint32_t *tokens,
                                     size_t count,
                                     struct lowrank_error *error);

/**
 * Appends `count` tokens to a sequence as `lowrank_session_prefill` does, but classifies it with
 * the classifier that one of its adapters brings: writes the logit of each label to `logits`,
 * their number to `*labels`, and the label with the largest one to `*label`, which may be null. If
 * there are more than `capacity`, nothing has changed but the number
 * (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). No adapter with a classifier, or two, is
 * `LOWRANK_ERROR_CLASSIFIERS`. There are no logits of a next token afterwards.
 */
lowrank_code lowrank_session_classify(struct lowrank_session *session,
                                      size_t sequence,
                                      const uint32_t *tokens,
                                      size_t count,
                                      float *logits,
                                      size_t capacity,
                                      size_t *labels,
                                      uint32_t *label,
                                      struct lowrank_error *error);

/**
 * Points `*name` at the name of a label of a sequence's classifier, as `lowrank_adapter_label`
 * does.
 */
lowrank_code lowrank_session_label(struct lowrank_session *session,
                                   size_t sequence,
                                   uint32_t label,
                                   const char **name,
                                   size_t *name_bytes,
                                   struct lowrank_error *error);

/**
 * Appends one token to each of `count` different sequences, in one pass, and computes their
 * logits. On an error nothing has changed.
 */
lowrank_code lowrank_session_step(struct lowrank_session *session,
                                  const struct lowrank_next *tokens,
                                  size_t count,
                                  struct lowrank_error *error);

/**
 * Chooses the next token of a sequence and writes it to `*token`; does not append it.
 */
lowrank_code lowrank_session_sample(struct lowrank_session *session,
                                    size_t sequence,
                                    struct lowrank_sampler *sampler,
                                    uint32_t *token,
                                    struct lowrank_error *error);

/**
 * Points `*logits` at the logits after the last token of a sequence, `*count` floats in the
 * workspace, one for each token of the vocabulary. They stay until the next call with this
 * session.
 */
lowrank_code lowrank_session_logits(struct lowrank_session *session,
                                    size_t sequence,
                                    const float **logits,
                                    size_t *count,
                                    struct lowrank_error *error);

/**
 * Points `*tokens` at the `*count` tokens of a sequence, in the workspace. They stay until the
 * next call with this session.
 */
lowrank_code lowrank_session_tokens(struct lowrank_session *session,
                                    size_t sequence,
                                    const uint32_t **tokens,
                                    size_t *count,
                                    struct lowrank_error *error);

/**
 * Writes to `*room` how many more tokens a sequence can take.
 */
lowrank_code lowrank_session_room(struct lowrank_session *session,
                                  size_t sequence,
                                  size_t *room,
                                  struct lowrank_error *error);

/**
 * Forgets the tokens of a sequence. Its adapters stay chosen.
 */
lowrank_code lowrank_session_reset(struct lowrank_session *session, size_t sequence, struct lowrank_error *error);

/**
 * Closes a session: its memory and its workspace are free again.
 */
lowrank_code lowrank_session_close(struct lowrank_session *session, struct lowrank_error *error);

/**
 * The bytes that a session object takes, exactly, without its workspace; `LOWRANK_SESSION_BYTES`
 * is enough on every target.
 */
size_t lowrank_session_bytes(void);

/**
 * Appends tokens to `count` different sequences and computes the logits after the last one of
 * each: any mix of prompts, parts of prompts and single steps, in as few passes as their tokens
 * fit into. A sequence gets what it gets alone; sequences with the same adapters are cheapest side
 * by side. On an error nothing has changed.
 */
lowrank_code lowrank_session_advance(struct lowrank_session *session,
                                     const struct lowrank_chunk *chunks,
                                     size_t count,
                                     struct lowrank_error *error);

/**
 * Makes sequence `to` begin with the first `length` tokens of `from`, under the same adapters:
 * their keys and values are copied, so that a prompt that several requests share is computed once.
 * What `to` held is forgotten. There are no logits until more tokens come. On an error nothing has
 * changed.
 */
lowrank_code lowrank_session_fork(struct lowrank_session *session,
                                  size_t from,
                                  size_t to,
                                  size_t length,
                                  struct lowrank_error *error);

/**
 * Forgets all but the first `length` tokens of a sequence, whose keys and values stay. There are
 * no logits until more tokens come.
 */
lowrank_code lowrank_session_rewind(struct lowrank_session *session,
                                    size_t sequence,
                                    size_t length,
                                    struct lowrank_error *error);

/**
 * Ends a sequence: forgets its tokens and lets go of its adapters. Its place is free for another.
 */
lowrank_code lowrank_session_cancel(struct lowrank_session *session, size_t sequence, struct lowrank_error *error);

/**
 * Appends `count` tokens to a sequence, as `lowrank_session_prefill` does, and writes to
 * `log_probabilities`, which has room for `count`, the natural logarithm of the probability of
 * each of them behind those before it. That of the first is a NaN where the sequence had no logits
 * before. The logits of other sequences are lost. On an error of the arguments nothing has
 * changed.
 */
lowrank_code lowrank_session_score(struct lowrank_session *session,
                                   size_t sequence,
                                   const uint32_t *tokens,
                                   size_t count,
                                   float *log_probabilities,
                                   struct lowrank_error *error);

/**
 * Writes what `lowrank_encoder_limits_default` returns to a struct of `size` bytes.
 */
void lowrank_encoder_limits_init(struct lowrank_encoder_limits *limits, size_t size, size_t context);

/**
 * Writes to `*limits`, a struct of `size` bytes, what suits an encoder, as the command line
 * embeds: texts as long as the base reads them, 32 of them at once, the work in `threads` parts as
 * in `lowrank_limits_for_model`.
 */
lowrank_code lowrank_encoder_limits_for_model(const struct lowrank_base *base,
                                              size_t threads,
                                              struct lowrank_encoder_limits *limits,
                                              size_t size,
                                              struct lowrank_error *error);

/**
 * Writes the size of the workspace that an encoder over `base` takes under `limits` to `*need`.
 */
lowrank_code lowrank_encoder_need(const struct lowrank_base *base,
                                  const struct lowrank_encoder_limits *limits,
                                  struct lowrank_need *need,
                                  struct lowrank_error *error);

/**
 * Makes an encoder over `base` (of `lowrank_bert_open`) in `memory` of at least
 * `lowrank_encoder_bytes()` bytes, with `workspace` of at least `lowrank_encoder_need` bytes at a
 * multiple of `LOWRANK_MEMORY_ALIGN`; what the two hold does not matter. Both stay, and are not
 * touched, until the encoder is closed. `executor` is copied; it may be null: the calling thread
 * does everything. On success `*encoder` is the object, on failure null.
 */
lowrank_code lowrank_encoder_open(void *memory,
                                  size_t memory_bytes,
                                  const struct lowrank_base *base,
                                  const struct lowrank_encoder_limits *limits,
                                  void *workspace,
                                  size_t workspace_bytes,
                                  const struct lowrank_executor *executor,
                                  struct lowrank_encoder **encoder,
                                  struct lowrank_error *error);

/**
 * Chooses the adapters of a sequence for the texts to come: `count` of them, 0 for the base alone.
 * What was encoded is forgotten. The encoder keeps the adapters: later swaps in `set` don't touch
 * it, and the set may be closed. On an error the previous choice stays.
 */
lowrank_code lowrank_encoder_select(struct lowrank_encoder *encoder,
                                    size_t sequence,
                                    struct lowrank_set *set,
                                    const struct lowrank_choice *choices,
                                    size_t count,
                                    struct lowrank_error *error);

/**
 * Encodes a batch of `texts` texts. Their tokens lie one behind the other in `tokens`, special
 * tokens included (`lowrank_tokenize_for_encoder` puts them around): text i is the next
 * `lengths[i]` of the `count`. `types` has the token type of each (pairs of sentences), or is
 * null: type 0. On an error nothing is encoded.
 */
lowrank_code lowrank_encoder_encode(struct lowrank_encoder *encoder,
                                    const uint32_t *tokens,
                                    const uint32_t *types,
                                    size_t count,
                                    const size_t *lengths,
                                    size_t texts,
                                    struct lowrank_error *error);

/**
 * Points `*vector` at the embedding of a text, `*count` floats in the workspace: pooled and
 * normalized as the base says. They stay until the next call with this encoder.
 */
lowrank_code lowrank_encoder_embedding(struct lowrank_encoder *encoder,
                                       size_t sequence,
                                       const float **vector,
                                       size_t *count,
                                       struct lowrank_error *error);

/**
 * Points `*vector` at one vector of a text, not normalized, as `lowrank_encoder_embedding` does;
 * `pooling` is one of `LOWRANK_POOLING_MEAN`, `LOWRANK_POOLING_CLS`, `LOWRANK_POOLING_POOLER`.
 */
lowrank_code lowrank_encoder_pooled(struct lowrank_encoder *encoder,
                                    size_t sequence,
                                    uint32_t pooling,
                                    const float **vector,
                                    size_t *count,
                                    struct lowrank_error *error);

/**
 * Points `*states` at the last hidden states of a text, `*count` floats: one row of the base's
 * `dim` for each of its tokens. They stay until the next call with this encoder.
 */
lowrank_code lowrank_encoder_hidden(struct lowrank_encoder *encoder,
                                    size_t sequence,
                                    const float **states,
                                    size_t *count,
                                    struct lowrank_error *error);

/**
 * Classifies a text with the classifier that one of its adapters brings: writes the logit of each
 * label to `logits`, their number to `*count`, and the label with the largest one to `*label`,
 * which may be null. If there are more than `capacity`, nothing is written but the number
 * (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). No adapter with a classifier, or two, is
 * `LOWRANK_ERROR_CLASSIFIERS`.
 */
lowrank_code lowrank_encoder_classify(struct lowrank_encoder *encoder,
                                      size_t sequence,
                                      float *logits,
                                      size_t capacity,
                                      size_t *count,
                                      uint32_t *label,
                                      struct lowrank_error *error);

/**
 * Points `*name` at the name of a label of a sequence's classifier, as `lowrank_adapter_label`
 * does.
 */
lowrank_code lowrank_encoder_label(struct lowrank_encoder *encoder,
                                   size_t sequence,
                                   uint32_t label,
                                   const char **name,
                                   size_t *name_bytes,
                                   struct lowrank_error *error);

/**
 * Closes an encoder: its memory and its workspace are free again.
 */
lowrank_code lowrank_encoder_close(struct lowrank_encoder *encoder, struct lowrank_error *error);

/**
 * The bytes that an encoder object takes, exactly, without its workspace; `LOWRANK_ENCODER_BYTES`
 * is enough on every target.
 */
size_t lowrank_encoder_bytes(void);

/**
 * Writes what `lowrank_recurrent_limits_default` returns to a struct of `size` bytes.
 */
void lowrank_recurrent_limits_init(struct lowrank_recurrent_limits *limits, size_t size);

/**
 * Writes the size of the workspace that a recurrent session over `base` takes under `limits` to
 * `*need`.
 */
lowrank_code lowrank_recurrent_need(const struct lowrank_base *base,
                                    const struct lowrank_recurrent_limits *limits,
                                    struct lowrank_need *need,
                                    struct lowrank_error *error);

/**
 * Makes a recurrent session over `base` (of `lowrank_lstm_open`) in `memory` of at least
 * `lowrank_recurrent_bytes()` bytes, with `workspace` of at least `lowrank_recurrent_need` bytes,
 * as `lowrank_session_open` makes a session. On success `*recurrent` is the object, on failure
 * null.
 */
lowrank_code lowrank_recurrent_open(void *memory,
                                    size_t memory_bytes,
                                    const struct lowrank_base *base,
                                    const struct lowrank_recurrent_limits *limits,
                                    void *workspace,
                                    size_t workspace_bytes,
                                    const struct lowrank_executor *executor,
                                    struct lowrank_recurrent **recurrent,
                                    struct lowrank_error *error);

/**
 * Chooses the adapters of a sequence, as `lowrank_session_select` does.
 */
lowrank_code lowrank_recurrent_select(struct lowrank_recurrent *recurrent,
                                      size_t sequence,
                                      struct lowrank_set *set,
                                      const struct lowrank_choice *choices,
                                      size_t count,
                                      struct lowrank_error *error);

/**
 * Reads `count` tokens of a sequence and computes the outputs after the last one. On an error
 * nothing has changed.
 */
lowrank_code lowrank_recurrent_prefill(struct lowrank_recurrent *recurrent,
                                       size_t sequence,
                                       const uint32_t *tokens,
                                       size_t count,
                                       struct lowrank_error *error);

/**
 * Reads one token of each of `count` different sequences, in one pass, and computes their outputs.
 * On an error nothing has changed.
 */
lowrank_code lowrank_recurrent_step(struct lowrank_recurrent *recurrent,
                                    const struct lowrank_next *tokens,
                                    size_t count,
                                    struct lowrank_error *error);

/**
 * Chooses the next token of a sequence from its outputs and writes it to `*token`; does not read
 * it. `history` are the `history_count` tokens that a repetition penalty counts: the sequence does
 * not keep them.
 */
lowrank_code lowrank_recurrent_sample(struct lowrank_recurrent *recurrent,
                                      size_t sequence,
                                      struct lowrank_sampler *sampler,
                                      const uint32_t *history,
                                      size_t history_count,
                                      uint32_t *token,
                                      struct lowrank_error *error);

/**
 * Points `*outputs` at what the base's head says after the last token of a sequence, `*count`
 * floats in the workspace: one for each token of the vocabulary, or for each of the base's labels.
 * They stay until the next call with this object. A base without a head is
 * `LOWRANK_ERROR_NO_HEAD`.
 */
lowrank_code lowrank_recurrent_outputs(struct lowrank_recurrent *recurrent,
                                       size_t sequence,
                                       const float **outputs,
                                       size_t *count,
                                       struct lowrank_error *error);

/**
 * Points `*state` at the last layer's state after the last token of a sequence, `*count` floats in
 * the workspace. They stay until the next call with this object.
 */
lowrank_code lowrank_recurrent_hidden(struct lowrank_recurrent *recurrent,
                                      size_t sequence,
                                      const float **state,
                                      size_t *count,
                                      struct lowrank_error *error);

/**
 * Classifies what a sequence has read with the classifier that one of its adapters brings, as
 * `lowrank_encoder_classify` does.
 */
lowrank_code lowrank_recurrent_classify(struct lowrank_recurrent *recurrent,
                                        size_t sequence,
                                        float *logits,
                                        size_t capacity,
                                        size_t *count,
                                        uint32_t *label,
                                        struct lowrank_error *error);

/**
 * Points `*name` at the name of a label of a sequence's classifier, as `lowrank_adapter_label`
 * does.
 */
lowrank_code lowrank_recurrent_label(struct lowrank_recurrent *recurrent,
                                     size_t sequence,
                                     uint32_t label,
                                     const char **name,
                                     size_t *name_bytes,
                                     struct lowrank_error *error);

/**
 * Gives sequence `to` the adapters and the state of `from`: a beginning that several share is read
 * once. What `to` held is forgotten. There are no outputs until more tokens come.
 */
lowrank_code lowrank_recurrent_fork(struct lowrank_recurrent *recurrent,
                                    size_t from,
                                    size_t to,
                                    struct lowrank_error *error);

/**
 * Forgets what a sequence has read. Its adapters stay chosen.
 */
lowrank_code lowrank_recurrent_reset(struct lowrank_recurrent *recurrent, size_t sequence, struct lowrank_error *error);

/**
 * Ends a sequence: forgets what it has read and lets go of its adapters.
 */
lowrank_code lowrank_recurrent_cancel(struct lowrank_recurrent *recurrent,
                                      size_t sequence,
                                      struct lowrank_error *error);

/**
 * Closes a recurrent session: its memory and its workspace are free again.
 */
lowrank_code lowrank_recurrent_close(struct lowrank_recurrent *recurrent, struct lowrank_error *error);

/**
 * The bytes that a recurrent object takes, exactly, without its workspace;
 * `LOWRANK_RECURRENT_BYTES` is enough on every target.
 */
size_t lowrank_recurrent_bytes(void);

/**
 * Writes what `lowrank_predictor_limits_default` returns to a struct of `size` bytes.
 */
void lowrank_predictor_limits_init(struct lowrank_predictor_limits *limits, size_t size, size_t batch);

/**
 * Writes the size of the workspace that a predictor over `base` takes under `limits` to `*need`.
 */
lowrank_code lowrank_predictor_need(const struct lowrank_base *base,
                                    const struct lowrank_predictor_limits *limits,
                                    struct lowrank_need *need,
                                    struct lowrank_error *error);

/**
 * Makes a predictor over `base` (of `lowrank_mlp_open`) in `memory` of at least
 * `lowrank_predictor_bytes()` bytes, with `workspace` of at least `lowrank_predictor_need` bytes,
 * as `lowrank_session_open` makes a session. On success `*predictor` is the object, on failure
 * null.
 */
lowrank_code lowrank_predictor_open(void *memory,
                                    size_t memory_bytes,
                                    const struct lowrank_base *base,
                                    const struct lowrank_predictor_limits *limits,
                                    void *workspace,
                                    size_t workspace_bytes,
                                    const struct lowrank_executor *executor,
                                    struct lowrank_predictor **predictor,
                                    struct lowrank_error *error);

/**
 * Chooses the adapters of a row for the batches to come, as `lowrank_encoder_select` does for a
 * text.
 */
lowrank_code lowrank_predictor_select(struct lowrank_predictor *predictor,
                                      size_t sequence,
                                      struct lowrank_set *set,
                                      const struct lowrank_choice *choices,
                                      size_t count,
                                      struct lowrank_error *error);

/**
 * Computes the outputs of some rows: `features` are `count` numbers, the base's `inputs` for each
 * row, row by row. A feature that is not finite gives outputs that are not. On an error nothing is
 * computed.
 */
lowrank_code lowrank_predictor_infer(struct lowrank_predictor *predictor,
                                     const float *features,
                                     size_t count,
                                     struct lowrank_error *error);

/**
 * Points `*outputs` at the outputs of a row, `*count` floats in the workspace: the last layer as
 * it is, one for each label of a base that has labels. They stay until the next call with this
 * object.
 */
lowrank_code lowrank_predictor_outputs(struct lowrank_predictor *predictor,
                                       size_t sequence,
                                       const float **outputs,
                                       size_t *count,
                                       struct lowrank_error *error);

/**
 * Points `*state` at what the last layer read of a row, `*count` floats in the workspace: what the
 * classifiers of adapters read too. They stay until the next call with this object.
 */
lowrank_code lowrank_predictor_hidden(struct lowrank_predictor *predictor,
                                      size_t sequence,
                                      const float **state,
                                      size_t *count,
                                      struct lowrank_error *error);

/**
 * Classifies a row with the classifier that one of its adapters brings, as
 * `lowrank_encoder_classify` does a text.
 */
lowrank_code lowrank_predictor_classify(struct lowrank_predictor *predictor,
                                        size_t sequence,
                                        float *logits,
                                        size_t capacity,
                                        size_t *count,
                                        uint32_t *label,
                                        struct lowrank_error *error);

/**
 * Points `*name` at the name of a label of a row's classifier, as `lowrank_adapter_label` does.
 */
lowrank_code lowrank_predictor_label(struct lowrank_predictor *predictor,
                                     size_t sequence,
                                     uint32_t label,
                                     const char **name,
                                     size_t *name_bytes,
                                     struct lowrank_error *error);

/**
 * Closes a predictor: its memory and its workspace are free again.
 */
lowrank_code lowrank_predictor_close(struct lowrank_predictor *predictor, struct lowrank_error *error);

/**
 * The bytes that a predictor object takes, exactly, without its workspace;
 * `LOWRANK_PREDICTOR_BYTES` is enough on every target.
 */
size_t lowrank_predictor_bytes(void);

/**
 * Sets the function that is called when the library panics, or none. Only in libraries built with
 * the feature `panic-handler` and without `std`; hosted libraries return `LOWRANK_ERROR_PANICKED`
 * instead.
 */
void lowrank_on_panic(lowrank_panic_hook hook);

/**
 * Maps the archive at `path` (with a NUL at its end; UTF-8 on Windows) in `memory` of at least
 * `lowrank_file_bytes()` bytes. The file must not be changed in place while it is open: replace it
 * by rename. On success `*file` is the object, on failure null.
 */
lowrank_code lowrank_file_open(void *memory,
                               size_t memory_bytes,
                               const char *path,
                               struct lowrank_file **file,
                               struct lowrank_error *error);

/**
 * Points `*archive` at the `*bytes` bytes of an open file, aligned as the open functions ask for.
 */
lowrank_code lowrank_file_archive(const struct lowrank_file *file,
                                  const void **archive,
                                  size_t *bytes,
                                  struct lowrank_error *error);

/**
 * Closes a file: its archive is gone, so everything opened from it must be closed before.
 */
lowrank_code lowrank_file_close(struct lowrank_file *file, struct lowrank_error *error);

/**
 * The bytes that a file object takes, exactly; `LOWRANK_FILE_BYTES` is enough on every target.
 */
size_t lowrank_file_bytes(void);

/**
 * Starts a pool of `count` threads, the caller's included; 0 means one per core. `memory` has at
 * least `lowrank_threads_bytes()` bytes. On success `*threads` is the object, on failure null.
 */
lowrank_code lowrank_threads_open(void *memory,
                                  size_t memory_bytes,
                                  size_t count,
                                  struct lowrank_threads **threads,
                                  struct lowrank_error *error);

/**
 * Writes the pool's executor to `*executor` and its number of threads to `*count`: what
 * `lowrank_session_open` and `lowrank_limits` take. Sessions that use it must be closed before the
 * pool.
 */
lowrank_code lowrank_threads_executor(const struct lowrank_threads *threads,
                                      struct lowrank_executor *executor,
                                      size_t *count,
                                      struct lowrank_error *error);

/**
 * Stops a pool and waits for its threads.
 */
lowrank_code lowrank_threads_close(struct lowrank_threads *threads, struct lowrank_error *error);

/**
 * The bytes that a pool object takes, exactly; `LOWRANK_THREADS_BYTES` is enough on every target.
 */
size_t lowrank_threads_bytes(void);

/**
 * Reads the tokenizer and chat template of a base, in `memory` of at least `lowrank_text_bytes()`
 * bytes. On success `*text` is the object, on failure null.
 */
lowrank_code lowrank_text_open(void *memory,
                               size_t memory_bytes,
                               const struct lowrank_base *base,
                               struct lowrank_text **text,
                               struct lowrank_error *error);

/**
 * Writes the ids of `string` (`string_bytes` bytes of UTF-8) to `tokens` and their number to
 * `*count`. If there are more than `capacity`, nothing is written but the number
 * (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). `flags` is a sum of `LOWRANK_SPECIAL`, `LOWRANK_PROMPT`.
 */
lowrank_code lowrank_tokenize(const struct lowrank_text *text,
                              const char *string,
                              size_t string_bytes,
                              uint32_t flags,
                              uint32_t *tokens,
                              size_t capacity,
                              size_t *count,
                              struct lowrank_error *error);

/**
 * Writes the ids of a text as an encoder reads it (`lowrank embed` does the same) to `tokens` and
 * their number to `*count`: with the special tokens that belong around it, cut to `max_length`
 * tokens together; 0 is the base's own most. `*cut`, which may be null, gets the number of tokens
 * that were cut off for that. If there are more than `capacity`, nothing is written but the
 * numbers (`LOWRANK_ERROR_BUFFER_TOO_SMALL`).
 */
lowrank_code lowrank_tokenize_for_encoder(const struct lowrank_text *text,
                                          const char *string,
                                          size_t string_bytes,
                                          size_t max_length,
                                          uint32_t *tokens,
                                          size_t capacity,
                                          size_t *count,
                                          size_t *cut,
                                          struct lowrank_error *error);

/**
 * Writes the text of `count` tokens to `buffer` (UTF-8, no NUL) and its length to `*bytes`. If it
 * is longer than `capacity`, nothing is written but the length (`LOWRANK_ERROR_BUFFER_TOO_SMALL`).
 * Special tokens are left out unless `flags` is `LOWRANK_SPECIAL`.
 */
lowrank_code lowrank_detokenize(const struct lowrank_text *text,
                                const uint32_t *tokens,
                                size_t count,
                                uint32_t flags,
                                char *buffer,
                                size_t capacity,
                                size_t *bytes,
                                struct lowrank_error *error);

/**
 * Closes a text object. Streams made from it go on.
 */
lowrank_code lowrank_text_close(struct lowrank_text *text, struct lowrank_error *error);

/**
 * The bytes that a text object takes, exactly; `LOWRANK_TEXT_BYTES` is enough on every target.
 */
size_t lowrank_text_bytes(void);

/**
 * Makes a decoder for tokens that come one by one, in `memory` of at least
 * `lowrank_stream_bytes()` bytes. On success `*stream` is the object, on failure null.
 */
lowrank_code lowrank_stream_open(void *memory,
                                 size_t memory_bytes,
                                 const struct lowrank_text *text,
                                 struct lowrank_stream **stream,
                                 struct lowrank_error *error);

/**
 * Adds a token and writes the text that is now finished, which may be empty, to `buffer` (UTF-8,
 * no NUL) and its length to `*bytes`. `LOWRANK_NO_TOKEN` adds nothing: with it, text for which the
 * buffer was too small (`LOWRANK_ERROR_BUFFER_TOO_SMALL`: the token was taken, the length is told)
 * is asked for again.
 */
lowrank_code lowrank_stream_push(struct lowrank_stream *stream,
                                 uint32_t token,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *bytes,
                                 struct lowrank_error *error);

/**
 * Ends the text: as `lowrank_stream_push`, with a replacement character if half a character was
 * left. The decoder is then as new.
 */
lowrank_code lowrank_stream_finish(struct lowrank_stream *stream,
                                   char *buffer,
                                   size_t capacity,
                                   size_t *bytes,
                                   struct lowrank_error *error);

/**
 * Closes a stream.
 */
lowrank_code lowrank_stream_close(struct lowrank_stream *stream, struct lowrank_error *error);

/**
 * The bytes that a stream object takes, exactly; `LOWRANK_STREAM_BYTES` is enough on every target.
 */
size_t lowrank_stream_bytes(void);

/**
 * Applies the base's chat template to `count` messages and writes the prompt to `buffer` (UTF-8,
 * no NUL) and its length to `*bytes`, as `lowrank_detokenize` does. `variables` are
 * `variable_count` variables for the template, such as `enable_thinking` = `false`; none is 0 of
 * them. If `add_generation_prompt` is not 0, the beginning of the assistant's turn is added.
 * Tokenize it with `LOWRANK_PROMPT`.
 */
lowrank_code lowrank_render_chat(const struct lowrank_text *text,
                                 const struct lowrank_message *messages,
                                 size_t count,
                                 const struct lowrank_template_variable *variables,
                                 size_t variable_count,
                                 uint32_t add_generation_prompt,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *bytes,
                                 struct lowrank_error *error);

/**
 * Appends a prompt (`prompt_bytes` bytes of UTF-8; special tokens in it are parsed, and at the
 * beginning of a sequence the begin-of-sequence token comes first where the model's rule asks for
 * one) to a sequence and generates a reply of at most `most_tokens` tokens, under the adapters
 * that are chosen for it. `piece` is told the text as it comes, with `context`; it may be null.
 * `reply` may be null. For chat models make the prompt with `lowrank_render_chat`. On an error the
 * sequence holds what was appended so far.
 */
lowrank_code lowrank_generate(struct lowrank_session *session,
                              size_t sequence,
                              const struct lowrank_text *text,
                              struct lowrank_sampler *sampler,
                              const char *prompt,
                              size_t prompt_bytes,
                              size_t most_tokens,
                              lowrank_piece piece,
                              void *context,
                              struct lowrank_reply *reply,
                              struct lowrank_error *error);

/**
 * Writes what `lowrank_adapter_import_options_default` returns to a struct of `size` bytes.
 */
void lowrank_adapter_import_options_init(struct lowrank_adapter_import_options *options, size_t size);

/**
 * Reads the adapter at `source`, a PEFT directory or a GGUF LoRA file, for the base whose archive
 * is given (Llama or BERT family; GGUF for Llama only), and writes it to the archive `output`,
 * bound to that base. `options` may be null: the defaults. `output` appears whole or not at all;
 * an existing file that is `source`, or that holds something else than an adapter, is refused
 * before anything is read.
 */
lowrank_code lowrank_adapter_import(const char *source,
                                    const void *archive,
                                    size_t archive_bytes,
                                    const char *output,
                                    const struct lowrank_adapter_import_options *options,
                                    struct lowrank_error *error);

/**
 * Writes what `lowrank_import_options_default` returns to a struct of `size` bytes.
 */
void lowrank_import_options_init(struct lowrank_import_options *options, size_t size);

/**
 * Reads the model at `source`, a GGUF file or a folder of Hugging Face or PyTorch (decoders,
 * encoders, LSTM and multilayer perceptrons), and writes it to the archive `output`, as `lowrank
 * import` does. `options` may be null: the defaults. Strings have a NUL at their ends. Can take
 * minutes; `output` appears whole or not at all, and an existing file that is `source`, or that
 * holds something else than a base, is refused before anything is read.
 */
lowrank_code lowrank_base_import(const char *source,
                                 const char *output,
                                 const struct lowrank_import_options *options,
                                 struct lowrank_error *error);

/**
 * Writes what `lowrank_train_options_default` returns to a struct of `size` bytes.
 */
void lowrank_train_options_init(struct lowrank_train_options *options, size_t size);

/**
 * Trains on the base whose archive is given, of any family, and writes the result to
 * `options->output`. Blocks until the run is over; `watch` (may be null) is told after every step
 * and every validation, with `context`, and may stop it. The base is only read: other threads may
 * run sessions over it meanwhile. The result is opened with `lowrank_file_open` and
 * `lowrank_adapter_open` and put into a running set with `lowrank_set_replace`: sessions that
 * chose the old one keep it. `report` may be null.
 *
 * Before the work begins `options->output` and `options->checkpoint` are tried: a file that is one
 * of the inputs or holds something of another kind, and a folder that is missing, are
 * `LOWRANK_ERROR_FILE` with a sentence. A base is known by its fingerprint, wherever its bytes
 * are.
 *
 * Options, data and base that do not fit are `LOWRANK_ERROR_TRAIN` with a sentence. A run that
 * diverges is `LOWRANK_ERROR_DIVERGED` with a sentence: the last good numbers are in the output
 * file, or the file is as it was if no step left good ones.
 */
lowrank_code lowrank_train(const void *archive,
                           size_t archive_bytes,
                           const struct lowrank_train_options *options,
                           lowrank_train_watch watch,
                           void *context,
                           struct lowrank_train_report *report,
                           struct lowrank_error *error);

/**
 * As `lowrank_train`, but the result stays in memory: a file object in `memory` of at least
 * `lowrank_file_bytes()` bytes, whose archive `lowrank_file_archive` tells, and which must be
 * closed. `options->output` is null. On success `*result` is the object, on failure, and where the
 * callback stopped the run, null; a run that diverges leaves nothing.
 */
lowrank_code lowrank_train_in_memory(void *memory,
                                     size_t memory_bytes,
                                     const void *archive,
                                     size_t archive_bytes,
                                     const struct lowrank_train_options *options,
                                     lowrank_train_watch watch,
                                     void *context,
                                     struct lowrank_train_report *report,
                                     struct lowrank_file **result,
                                     struct lowrank_error *error);

/**
 * Estimates what a run of `options` on the base will take and writes it to `*memory`; trains
 * nothing. Without data every batch is taken to be full: `batch_size` sequences of `max_length`
 * tokens, and two labels for a classifier. Errors are those of `lowrank_train`.
 */
lowrank_code lowrank_train_estimate(const void *archive,
                                    size_t archive_bytes,
                                    const struct lowrank_train_options *options,
                                    struct lowrank_train_memory *memory,
                                    struct lowrank_error *error);

/**
 * Writes what `lowrank_evaluate_options_default` returns to a struct of `size` bytes.
 */
void lowrank_evaluate_options_init(struct lowrank_evaluate_options *options, size_t size);

/**
 * Measures the base whose archive is given, of any family, on the data in `options`, and writes
 * what it finds to `*metrics`. Blocks until it is done. Data and adapters that do not fit are
 * refused as `lowrank_train` refuses them.
 */
lowrank_code lowrank_evaluate(const void *archive,
                              size_t archive_bytes,
                              const struct lowrank_evaluate_options *options,
                              struct lowrank_metrics *metrics,
                              struct lowrank_error *error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

/* The defaults of a struct of options, which begins with its size. Functions of the program, not of the library: so the
 * struct is as large as the program knows it. */

static inline lowrank_sampling lowrank_sampling_default(void) {
    lowrank_sampling sampling;
    lowrank_sampling_init(&sampling, sizeof sampling);
    return sampling;
}

static inline lowrank_limits lowrank_limits_default(size_t context) {
    lowrank_limits limits;
    lowrank_limits_init(&limits, sizeof limits, context);
    return limits;
}

static inline lowrank_encoder_limits lowrank_encoder_limits_default(size_t context) {
    lowrank_encoder_limits limits;
    lowrank_encoder_limits_init(&limits, sizeof limits, context);
    return limits;
}

static inline lowrank_recurrent_limits lowrank_recurrent_limits_default(void) {
    lowrank_recurrent_limits limits;
    lowrank_recurrent_limits_init(&limits, sizeof limits);
    return limits;
}

static inline lowrank_predictor_limits lowrank_predictor_limits_default(size_t batch) {
    lowrank_predictor_limits limits;
    lowrank_predictor_limits_init(&limits, sizeof limits, batch);
    return limits;
}

static inline lowrank_train_options lowrank_train_options_default(void) {
    lowrank_train_options options;
    lowrank_train_options_init(&options, sizeof options);
    return options;
}

static inline lowrank_evaluate_options lowrank_evaluate_options_default(void) {
    lowrank_evaluate_options options;
    lowrank_evaluate_options_init(&options, sizeof options);
    return options;
}

static inline lowrank_import_options lowrank_import_options_default(void) {
    lowrank_import_options options;
    lowrank_import_options_init(&options, sizeof options);
    return options;
}

static inline lowrank_adapter_import_options lowrank_adapter_import_options_default(void) {
    lowrank_adapter_import_options options;
    lowrank_adapter_import_options_init(&options, sizeof options);
    return options;
}

#endif  /* LOWRANK_H */
