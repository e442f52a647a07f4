/*
 * lowrank.h: one 4-bit base model with many swappable low-rank adapters, without a heap.
 *
 * Generated from src/ffi by the crate's tests (tests/header.rs). Do not edit. C99 and C++17.
 *
 * The rules of every function
 *
 * - Objects live in memory of the caller: at a multiple of LOWRANK_OBJECT_ALIGN, as large as its lowrank_..._bytes() says. For a static
 *   buffer take the constant LOWRANK_..._BYTES, e.g. `static uint64_t memory[LOWRANK_BASE_BYTES / 8];`. An open object must not be copied
 *   or moved; after it is closed, its memory is free. Only files, threads, text and streams own anything else: those must be closed.
 * - Archives are used in place and never written: they start at a multiple of LOWRANK_MEMORY_ALIGN and stay, unchanged, as long as
 *   anything opened from them is used.
 * - A function returns LOWRANK_OK or a code. The last argument may be null, else it is filled when the function fails;
 *   lowrank_error_message makes a sentence of it. A function that failed has changed nothing, except where its comment says so.
 * - Null pointers, misaligned pointers, lengths past the end of the address space, arguments that overlap each other or memory that an
 *   object uses, objects that were never opened, were closed or were copied: all refused with a code. What cannot be seen is a pointer to
 *   memory that is not there or shorter than said.
 * - Threads: bases, adapters, files, texts and pools are only read, by any number of threads. Sets, sessions, samplers and streams serve
 *   one call at a time; another one meanwhile, also from inside an executor's callback, gets LOWRANK_ERROR_BUSY. Closing an object while
 *   another thread uses it is not detected. Nothing blocks, only files, pools, texts and streams allocate, and there are no globals. From an interrupt
 *   handler only objects may be used that nothing else uses.
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
    /* A run-time rank was asked of a DoRA adapter. */
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
};

/* Memory that is enough for a set with this many slots. */
#define LOWRANK_SET_BYTES(slots) (LOWRANK_SET_HEAD_BYTES + (size_t)(slots) * LOWRANK_SLOT_BYTES)


/**
 * Room for the sentence in `lowrank_error`, the NUL included.
 */
#define LOWRANK_DETAIL_BYTES 192

/**
 * The most numbers of an error.
 */
#define LOWRANK_NUMBERS 5

/**
 * `lowrank_features`: files, text and threads are there (the library was built with `std`).
 */
#define LOWRANK_FEATURE_STD 1

/**
 * `lowrank_features`: an executor is used. Processors without atomic read-modify-write (Cortex-M0) run every lane themselves.
 */
#define LOWRANK_FEATURE_EXECUTOR 2

/**
 * `lowrank_features`: objects refuse use by two threads at once for certain, not just mostly.
 */
#define LOWRANK_FEATURE_LOCKS 4

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
 * Memory that is enough for an adapter object on every target.
 */
#define LOWRANK_ADAPTER_BYTES 96

/**
 * No token, where one could be.
 */
#define LOWRANK_NO_TOKEN UINT32_MAX

/**
 * Memory that is enough for a set without its slots on every target.
 */
#define LOWRANK_SET_HEAD_BYTES 512

/**
 * Memory that is enough for one slot on every target.
 */
#define LOWRANK_SLOT_BYTES 64

/**
 * Memory that is enough for a sampler object on every target.
 */
#define LOWRANK_SAMPLER_BYTES 96

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
 * The most adapters that can be chosen at once.
 */
#define LOWRANK_MAX_CHOICES 32

/**
 * Memory that is enough for a session object, without its workspace, on every target.
 */
#define LOWRANK_SESSION_BYTES 1536

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
 * `lowrank_encode`, `lowrank_decode`: special tokens are parsed in text, and written out.
 */
#define LOWRANK_SPECIAL 1

/**
 * `lowrank_encode`: a prompt; the begin-of-sequence token comes first where the model's rule asks for one. Implies `LOWRANK_SPECIAL`.
 */
#define LOWRANK_PROMPT 2

/**
 * An opened low-rank adapter. Only read, like a base; attaching it copies a few words, so it may be closed after that. Its archive
 * must stay until every set that has it, and every session that chose it, is closed or has another.
 */
typedef struct lowrank_adapter lowrank_adapter;

/**
 * An opened base model.
 *
 * It is only read: any number of threads may use it at once. Sets and sessions made from it keep what they need of it, so it may be
 * closed before them; the archive must stay until the last of them is closed.
 */
typedef struct lowrank_base lowrank_base;

/**
 * An archive file, mapped into memory. Files, pools, texts and streams are only in libraries with `LOWRANK_FEATURE_STD`.
 */
typedef struct lowrank_file lowrank_file;

/**
 * Chooses tokens. One thread at a time; any number of sessions.
 */
typedef struct lowrank_sampler lowrank_sampler;

/**
 * Sequences that a base continues, each under its own adapters, in a workspace of the caller. One thread at a time; a second one gets
 * `LOWRANK_ERROR_BUSY`.
 */
typedef struct lowrank_session lowrank_session;

/**
 * Slots for adapters of one base. What an application swaps: a session copies what it chooses, so a swap never touches it.
 *
 * One thread at a time; a second one gets `LOWRANK_ERROR_BUSY` and may try again.
 */
typedef struct lowrank_set lowrank_set;

/**
 * Decodes tokens that come one by one, without ever giving half a character. One thread at a time.
 */
typedef struct lowrank_stream lowrank_stream;

/**
 * The tokenizer and chat template of a base, read once. Any number of threads may use it; the base may be closed before it.
 */
typedef struct lowrank_text lowrank_text;

/**
 * A pool of threads of the library, for programs that have none of their own.
 */
typedef struct lowrank_threads lowrank_threads;

/**
 * What a function returns: 0 (`LOWRANK_OK`), or one of the codes above. A code never changes its meaning.
 */
typedef uint32_t lowrank_code;

/**
 * What went wrong, with its numbers. A function that is given one fills it when it fails and leaves it alone otherwise; what it held
 * does not matter. Plain data: it may be copied, and it needs no closing.
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
     * The numbers in the order in which the sentence of `lowrank_error_message` has them; of a float its bits.
     */
    uint64_t numbers[LOWRANK_NUMBERS];
    /**
     * For text, file and thread errors: the sentence, UTF-8, with a NUL at its end, cut where room ends. Else empty.
     */
    char detail[LOWRANK_DETAIL_BYTES];
} lowrank_error;

/**
 * What is known of a base.
 */
typedef struct lowrank_base_info {
    /**
     * The architecture, as the archive's header has it: 0x00010001 is the Llama family.
     */
    uint32_t kind;
    /**
     * Tokens in the vocabulary.
     */
    uint32_t vocab;
    /**
     * Width of the hidden states.
     */
    uint32_t dim;
    /**
     * Blocks.
     */
    uint32_t layers;
    /**
     * The longest sequence that the model allows, in tokens.
     */
    uint32_t context;
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
 * How tokens are chosen. All zero but `top_p` and `repetition_penalty`, which are 1, takes the largest logit.
 */
typedef struct lowrank_sampling {
    /**
     * Divides the logits; 0 always takes the largest.
     */
    float temperature;
    /**
     * Only the most probable tokens that reach this probability together, above 0 to 1; 1 means all.
     */
    float top_p;
    /**
     * Logits of tokens already in the sequence are divided (if positive) or multiplied by it, above 0; 1 means none.
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
} lowrank_sampling;

/**
 * What a session must have room for. Start from `lowrank_limits_default`.
 */
typedef struct lowrank_limits {
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
     * Parts that the work is split into: as many as the executor has threads. Results do not depend on it.
     */
    size_t lanes;
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
 * A part of the work: takes the next part that nobody has, computes it, and returns. From any thread, also several at once.
 */
typedef void (*lowrank_task)(void *argument);

/**
 * Threads or tasks of the caller that share the work of a session.
 */
typedef struct lowrank_executor {
    /**
     * Calls `task(argument)` `tasks` times, on any threads, and returns when all of these calls have returned. `context` is the
     * one beside it. Null: the calling thread does everything. It is called many times for each token, so waking threads should be
     * cheap. It must not use the session that it works for.
     */
    void (*run)(void *context, size_t tasks, lowrank_task task, void *argument);
    /**
     * Handed to `run`.
     */
    void *context;
} lowrank_executor;

/**
 * One adapter of a choice.
 */
typedef struct lowrank_choice {
    /**
     * The slot of the set.
     */
    uint32_t slot;
    /**
     * 1 is as trained, 0 switches it off, other values scale its effect.
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
 * A function that is told where in the library's source a panic happened: the file's name (not ended by a NUL), its length, the line.
 * It should not return; if it does, the library waits forever.
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

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a code means, in one sentence without numbers: a static string, never null.
 */
const char *lowrank_code_text(lowrank_code code);

/**
 * Writes the sentence of `error` with its numbers and a hint into `buffer` (UTF-8, NUL at its end, cut where `capacity` ends) and
 * returns the length of the whole sentence without the NUL, as `snprintf` does. Both pointers null, or one that cannot be used: 0.
 *
 * Programs that link statically and never call this don't carry the sentences.
 */
size_t lowrank_error_message(const struct lowrank_error *error,
                             char *buffer,
                             size_t capacity);

/**
 * The library's version, a static string such as "0.1.0".
 */
const char *lowrank_version(void);

/**
 * What this build can do: a sum of `LOWRANK_FEATURE_` constants. Bits that the header does not name are to be ignored.
 */
uint32_t lowrank_features(void);

/**
 * Writes the name of the instruction set in use ("scalar", "avx2" …) into `buffer`, with a NUL at its end, cut where `capacity` ends;
 * returns the length of the whole name without the NUL. A buffer that cannot be used: 0.
 */
size_t lowrank_isa(char *buffer,
                   size_t capacity);

/**
 * The bytes that a base object takes, exactly; `LOWRANK_BASE_BYTES` is enough on every target.
 */
size_t lowrank_base_bytes(void);

/**
 * The bytes that an adapter object takes, exactly; `LOWRANK_ADAPTER_BYTES` is enough on every target.
 */
size_t lowrank_adapter_bytes(void);

/**
 * The bytes that a sampler object takes, exactly; `LOWRANK_SAMPLER_BYTES` is enough on every target.
 */
size_t lowrank_sampler_bytes(void);

/**
 * The bytes that a session object takes, exactly, without its workspace; `LOWRANK_SESSION_BYTES` is enough on every target.
 */
size_t lowrank_session_bytes(void);

/**
 * Reads a whole archive, of a base that `lowrank_base_open` takes or of an adapter: its checksum, and every value that must be finite.
 * Opening does not: it takes microseconds, and a damaged archive that was opened gives wrong numbers or an error, never an access
 * outside its bytes.
 */
lowrank_code lowrank_verify(const void *archive,
                            size_t archive_bytes,
                            struct lowrank_error *error);

/**
 * Opens a base over an archive of `archive_bytes` bytes, in place, in `memory` of at least `lowrank_base_bytes()` bytes.
 *
 * The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, until the base and all sets and sessions made from
 * it are closed. Its weights are not read. On success `*base` is the object, on failure null.
 */
lowrank_code lowrank_base_open(void *memory,
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
 * Does `token` end a turn? 1 or 0 in `*stops`.
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
 * Opens an adapter over an archive, in place, in `memory` of at least `lowrank_adapter_bytes()` bytes; reads its values once.
 *
 * The archive starts at a multiple of `LOWRANK_MEMORY_ALIGN` and stays, unchanged, as long as the adapter is used by anything. Whether
 * it fits a base is checked when it is attached. On success `*adapter` is the object, on failure null.
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
 * Closes an adapter. Where it was attached it stays.
 */
lowrank_code lowrank_adapter_close(struct lowrank_adapter *adapter, struct lowrank_error *error);

/**
 * The bytes that a set with `slots` slots takes, exactly; `LOWRANK_SET_BYTES(slots)` is enough on every target. 0 for more than 65,536.
 */
size_t lowrank_set_bytes(uint32_t slots);

/**
 * Makes an empty set of `slots` slots (1 to 65,536) for adapters of `base`, in `memory` of at least `lowrank_set_bytes(slots)` bytes.
 * On success `*set` is the object, on failure null.
 */
lowrank_code lowrank_set_open(void *memory,
                              size_t memory_bytes,
                              const struct lowrank_base *base,
                              uint32_t slots,
                              struct lowrank_set **set,
                              struct lowrank_error *error);

/**
 * Puts an adapter into an empty slot (numbered from 0). `generation` may be null, else it gets the slot's new generation. A slot that is
 * taken is `LOWRANK_ERROR_STALE_GENERATION`; an adapter of another base is refused and says so.
 */
lowrank_code lowrank_set_attach(struct lowrank_set *set,
                                uint32_t slot,
                                const struct lowrank_adapter *adapter,
                                uint64_t *generation,
                                struct lowrank_error *error);

/**
 * Puts an adapter into a slot if its generation is still `expected`, and tells the new one as `lowrank_set_attach` does: compare and
 * swap. If somebody else was there first (`LOWRANK_ERROR_STALE_GENERATION`), or the adapter does not fit, the old one stays.
 */
lowrank_code lowrank_set_replace(struct lowrank_set *set,
                                 uint32_t slot,
                                 uint64_t expected,
                                 const struct lowrank_adapter *adapter,
                                 uint64_t *generation,
                                 struct lowrank_error *error);

/**
 * Empties a slot if its generation is still `expected`, and tells the new one as `lowrank_set_attach` does. Sessions that chose the
 * adapter keep it.
 */
lowrank_code lowrank_set_detach(struct lowrank_set *set,
                                uint32_t slot,
                                uint64_t expected,
                                uint64_t *generation,
                                struct lowrank_error *error);

/**
 * Writes the generation of a slot to `*generation`, and to `*occupied` 1 if it holds an adapter, else 0. Either may be null.
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
 * Makes a sampler in `memory` of at least `lowrank_sampler_bytes()` bytes. `sampling` may be null: the largest logit. On success
 * `*sampler` is the object, on failure null.
 */
lowrank_code lowrank_sampler_open(void *memory,
                                  size_t memory_bytes,
                                  const struct lowrank_sampling *sampling,
                                  struct lowrank_sampler **sampler,
                                  struct lowrank_error *error);

/**
 * Closes a sampler.
 */
lowrank_code lowrank_sampler_close(struct lowrank_sampler *sampler, struct lowrank_error *error);

/**
 * Limits for one sequence of `context` tokens: one lane, 32 prompt tokens at once, f16 keys and values, exact products, up to two
 * adapters of rank 64 together.
 */
struct lowrank_limits lowrank_limits_default(size_t context);

/**
 * Writes the size of the workspace that a session over `base` takes under `limits` to `*need`. `lowrank memory --firmware` prints it
 * beforehand, as a line of C.
 */
lowrank_code lowrank_session_need(const struct lowrank_base *base,
                                  const struct lowrank_limits *limits,
                                  struct lowrank_need *need,
                                  struct lowrank_error *error);

/**
 * Makes a session over `base` in `memory` of at least `lowrank_session_bytes()` bytes, with `workspace` of at least
 * `lowrank_session_need` bytes at a multiple of `LOWRANK_MEMORY_ALIGN`; what the two hold does not matter. Both stay, and are not
 * touched, until the session is closed. `executor` is copied; it may be null: the calling thread does everything. On success
 * `*session` is the object, on failure null.
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
 * Chooses the adapters of a sequence: `count` of them, 0 for the base alone. The session keeps them: later swaps in `set` don't touch it,
 * and the set may be closed. A sequence that holds tokens computed under other adapters is
 * `LOWRANK_ERROR_CACHE_OF_OTHER_ADAPTERS`: reset it first. On an error the previous choice stays.
 */
lowrank_code lowrank_session_select(struct lowrank_session *session,
                                    size_t sequence,
                                    struct lowrank_set *set,
                                    const struct lowrank_choice *choices,
                                    size_t count,
                                    struct lowrank_error *error);

/**
 * Appends `count` tokens to a sequence and computes the logits after the last one. On an error nothing has changed.
 */
lowrank_code lowrank_session_prefill(struct lowrank_session *session,
                                     size_t sequence,
                                     const uint32_t *tokens,
                                     size_t count,
                                     struct lowrank_error *error);

/**
 * Appends one token to each of `count` different sequences, in one pass, and computes their logits. On an error nothing has changed.
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
 * Points `*logits` at the logits after the last token of a sequence, `*count` floats in the workspace, one for each token of the
 * vocabulary. They stay until the next call with this session.
 */
lowrank_code lowrank_session_logits(struct lowrank_session *session,
                                    size_t sequence,
                                    const float **logits,
                                    size_t *count,
                                    struct lowrank_error *error);

/**
 * Points `*tokens` at the `*count` tokens of a sequence, in the workspace. They stay until the next call with this session.
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
 * Sets the function that is called when the library panics, or none. Only in libraries built with the feature `panic-handler`
 * and without `std`; hosted libraries return `LOWRANK_ERROR_PANICKED` instead.
 */
void lowrank_on_panic(lowrank_panic_hook hook);

/**
 * Maps the archive at `path` (with a NUL at its end; UTF-8 on Windows) in `memory` of at least `lowrank_file_bytes()` bytes. The file must
 * not be changed in place while it is open: replace it by rename. On success `*file` is the object, on failure null.
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
 * Starts a pool of `lanes` threads, the caller's included; 0 means one per core. `memory` has at least `lowrank_threads_bytes()` bytes. On
 * success `*threads` is the object, on failure null.
 */
lowrank_code lowrank_threads_open(void *memory,
                                  size_t memory_bytes,
                                  size_t lanes,
                                  struct lowrank_threads **threads,
                                  struct lowrank_error *error);

/**
 * Writes the pool's executor to `*executor` and its number of threads to `*lanes`: what `lowrank_session_open` and `lowrank_limits` take.
 * Sessions that use it must be closed before the pool.
 */
lowrank_code lowrank_threads_executor(const struct lowrank_threads *threads,
                                      struct lowrank_executor *executor,
                                      size_t *lanes,
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
 * Reads the tokenizer and chat template of a base, in `memory` of at least `lowrank_text_bytes()` bytes. On success `*text` is the
 * object, on failure null.
 */
lowrank_code lowrank_text_open(void *memory,
                               size_t memory_bytes,
                               const struct lowrank_base *base,
                               struct lowrank_text **text,
                               struct lowrank_error *error);

/**
 * Writes the ids of `string` (`string_bytes` bytes of UTF-8) to `tokens` and their number to `*count`. If there are more than `capacity`,
 * nothing is written but the number (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). `flags` is a sum of `LOWRANK_SPECIAL`, `LOWRANK_PROMPT`.
 */
lowrank_code lowrank_encode(const struct lowrank_text *text,
                            const char *string,
                            size_t string_bytes,
                            uint32_t flags,
                            uint32_t *tokens,
                            size_t capacity,
                            size_t *count,
                            struct lowrank_error *error);

/**
 * Writes the text of `count` tokens to `buffer` (UTF-8, no NUL) and its length to `*bytes`. If it is longer than `capacity`, nothing is
 * written but the length (`LOWRANK_ERROR_BUFFER_TOO_SMALL`). Special tokens are left out unless `flags` is `LOWRANK_SPECIAL`.
 */
lowrank_code lowrank_decode(const struct lowrank_text *text,
                            const uint32_t *tokens,
                            size_t count,
                            uint32_t flags,
                            char *buffer,
                            size_t capacity,
                            size_t *bytes,
                            struct lowrank_error *error);

/**
 * Applies the base's chat template to `count` messages and writes the prompt to `buffer` (UTF-8, no NUL) and its length to `*bytes`, as
 * `lowrank_decode` does. If `add_generation_prompt` is not 0, the beginning of the assistant's turn is added. Encode it with
 * `LOWRANK_PROMPT`.
 */
lowrank_code lowrank_chat(const struct lowrank_text *text,
                          const struct lowrank_message *messages,
                          size_t count,
                          uint32_t add_generation_prompt,
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
 * Makes a decoder for tokens that come one by one, in `memory` of at least `lowrank_stream_bytes()` bytes. On success `*stream` is the
 * object, on failure null.
 */
lowrank_code lowrank_stream_open(void *memory,
                                 size_t memory_bytes,
                                 const struct lowrank_text *text,
                                 struct lowrank_stream **stream,
                                 struct lowrank_error *error);

/**
 * Adds a token and writes the text that is now finished, which may be empty, to `buffer` (UTF-8, no NUL) and its length to `*bytes`.
 * `LOWRANK_NO_TOKEN` adds nothing: with it, text for which the buffer was too small (`LOWRANK_ERROR_BUFFER_TOO_SMALL`: the token was
 * taken, the length is told) is asked for again.
 */
lowrank_code lowrank_stream_push(struct lowrank_stream *stream,
                                 uint32_t token,
                                 char *buffer,
                                 size_t capacity,
                                 size_t *bytes,
                                 struct lowrank_error *error);

/**
 * Ends the text: as `lowrank_stream_push`, with a replacement character if half a character was left. The decoder is then as new.
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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LOWRANK_H */
