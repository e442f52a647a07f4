/*
 * Passes to every function what nobody should: null, misaligned, too short, overlapping, closed, copied, of another type, NaN. Every one
 * must come back with the right code and change nothing. Hosted; run it under valgrind or a sanitizer.
 *
 *     hostile BASE ADAPTER ADAPTER TEXT_BASE      (the tiny archives, and a base with a tokenizer)
 */
#include <math.h>
#include <stdlib.h>

#include "hostile.h"

static uint64_t file_memory[4][LOWRANK_FILE_BYTES / 8], base_memory[2][LOWRANK_BASE_BYTES / 8];
static uint64_t adapter_memory[2][LOWRANK_ADAPTER_BYTES / 8], set_memory[LOWRANK_SET_BYTES(2) / 8];
static uint64_t session_memory[LOWRANK_SESSION_BYTES / 8], sampler_memory[LOWRANK_SAMPLER_BYTES / 8];
static uint64_t text_memory[LOWRANK_TEXT_BYTES / 8], stream_memory[LOWRANK_STREAM_BYTES / 8];
static uint64_t threads_memory[LOWRANK_THREADS_BYTES / 8], copy[LOWRANK_SESSION_BYTES / 8];
static const void *archives[4];
static size_t lengths[4];

static lowrank_file *files[4];
static lowrank_base *base, *text_base;
static lowrank_adapter *adapters[2];
static lowrank_set *set;
static lowrank_session *session;
static lowrank_sampler *sampler;
static lowrank_text *text;
static lowrank_stream *stream;
static lowrank_threads *threads;
static uint32_t vocab;

static void hostile_about(void) {
    char name[3] = {'x', 'x', 'x'};
    TRUE(lowrank_version()[0] != '\0');
    TRUE((lowrank_features() & LOWRANK_FEATURE_STD) != 0);
    TRUE(lowrank_isa(NULL, 10) == 0 && lowrank_isa(name, 0) > 0 && name[0] == 'x');
    TRUE(lowrank_isa(name, 3) > 0 && name[2] == '\0' && name[1] != '\0');
    TRUE(lowrank_isa(name, ENDLESS) == 0);
    TRUE(strcmp(lowrank_code_text(0), "Success.") == 0 && lowrank_code_text(0xffffffff)[0] != '\0');
    memset(&error, 0xff, sizeof error);
    TRUE(lowrank_error_message(NULL, name, 3) == 0 && lowrank_error_message(&error, NULL, 3) == 0);
    TRUE(lowrank_error_message(&error, (char *)&error, 3) == 0 && lowrank_error_message(ODD(lowrank_error, &error), name, 3) == 0);
    TRUE(lowrank_error_message(&error, name, 3) > 3 && name[2] == '\0');
    for (uint32_t code = 0; code < 1100; code++) {
        char sentence[16];
        error.code = code;
        lowrank_error_message(&error, sentence, sizeof sentence);
        lowrank_code_text(code);
    }
    TRUE(lowrank_base_bytes() <= LOWRANK_BASE_BYTES && lowrank_adapter_bytes() <= LOWRANK_ADAPTER_BYTES);
    TRUE(lowrank_session_bytes() <= LOWRANK_SESSION_BYTES && lowrank_sampler_bytes() <= LOWRANK_SAMPLER_BYTES);
    TRUE(lowrank_file_bytes() <= LOWRANK_FILE_BYTES && lowrank_threads_bytes() <= LOWRANK_THREADS_BYTES);
    TRUE(lowrank_text_bytes() <= LOWRANK_TEXT_BYTES && lowrank_stream_bytes() <= LOWRANK_STREAM_BYTES);
    TRUE(lowrank_set_bytes(2) <= LOWRANK_SET_BYTES(2) && lowrank_set_bytes(0xffffffff) == 0);
}

static void hostile_files(char **paths) {
    lowrank_file *file;
    lowrank_executor executor;
    size_t count;
    EXPECT(lowrank_file_open(NULL, LOWRANK_FILE_BYTES, paths[1], &file, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_open(file_memory[0], 8, paths[1], &file, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_file_open(file_memory[0], 0, paths[1], &file, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_file_open(ODD(uint64_t, file_memory[0]), LOWRANK_FILE_BYTES - 8, paths[1], &file, &error), ERROR_MISALIGNED_POINTER);
    EXPECT(lowrank_file_open(file_memory[0], ENDLESS, paths[1], &file, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, NULL, &file, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, paths[1], NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, paths[1], (lowrank_file **)(void *)file_memory[0], &error), ERROR_OVERLAP);
    EXPECT(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, "no/such/file", &file, &error), ERROR_FILE);
    TRUE(file == NULL);
    EXPECT(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, paths[0], &file, &error), ERROR_NOT_AN_ARCHIVE);
    CODE(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, "no/such/file", &file, (lowrank_error *)(void *)file_memory[0]), ERROR_OVERLAP);
    CODE(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, "no/such/file", &file, ODD(lowrank_error, garbage)), ERROR_MISALIGNED_POINTER);
    CODE(lowrank_file_open(file_memory[0], LOWRANK_FILE_BYTES, "no/such/file", &file, NULL), ERROR_FILE);
    for (int i = 0; i < 4; i++) {
        EXPECT(lowrank_file_open(file_memory[i], LOWRANK_FILE_BYTES, paths[i + 1], &files[i], &error), OK);
        EXPECT(lowrank_file_archive(files[i], &archives[i], &lengths[i], &error), OK);
    }
    EXPECT(lowrank_file_archive(NULL, &archives[0], &lengths[0], &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_archive(GARBAGE(lowrank_file), &archives[0], &lengths[0], &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_file_archive(files[0], NULL, &lengths[0], &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_archive(files[0], &archives[0], NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_archive(files[0], &archives[0], (size_t *)(void *)&archives[0], &error), ERROR_OVERLAP);
    EXPECT(lowrank_file_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_file_close(GARBAGE(lowrank_file), &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_threads_open(NULL, LOWRANK_THREADS_BYTES, 2, &threads, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_threads_open(threads_memory, 8, 2, &threads, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_threads_open(threads_memory, sizeof threads_memory, ENDLESS, &threads, &error), ERROR_LIMIT);
    EXPECT(lowrank_threads_open(threads_memory, sizeof threads_memory, 2, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_threads_open(threads_memory, sizeof threads_memory, 2, &threads, &error), OK);
    EXPECT(lowrank_threads_executor(NULL, &executor, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_threads_executor(GARBAGE(lowrank_threads), &executor, &count, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_threads_executor(threads, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_threads_executor(threads, &executor, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_threads_executor((lowrank_threads *)(void *)files[0], &executor, &count, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_threads_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_threads_close(GARBAGE(lowrank_threads), &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_threads_close(threads, &error), OK);
    EXPECT(lowrank_threads_close(threads, &error), ERROR_NOT_AN_OBJECT);
}

/* Every truncation and many flipped bytes of an archive: an error or an object, never anything else. */
static void hostile_archive(const void *archive, size_t bytes) {
    char *memory = (char *)malloc(bytes + 64), *start = memory + (64 - (uintptr_t)memory % 64);
    uint64_t place[LOWRANK_BASE_BYTES / 8];
    lowrank_base *opened;
    lowrank_adapter *adapter;
    memcpy(start, archive, bytes);
    for (size_t length = 0; length < bytes; length += length < 300 ? 1 : 997) {
        TRUE(lowrank_base_open(place, sizeof place, start, length, &opened, NULL) != LOWRANK_OK && opened == NULL);
        TRUE(lowrank_adapter_open(place, sizeof place, start, length, &adapter, NULL) != LOWRANK_OK && adapter == NULL);
        TRUE(lowrank_verify(start, length, NULL) != LOWRANK_OK);
    }
    for (size_t i = 0; i < bytes; i += i < 300 ? 1 : 499) {
        start[i] ^= 0x55;
        TRUE(lowrank_verify(start, bytes, NULL) != LOWRANK_OK);
        lowrank_base_open(place, sizeof place, start, bytes, &opened, NULL);
        lowrank_adapter_open(place, sizeof place, start, bytes, &adapter, NULL);
        start[i] ^= 0x55;
    }
    free(memory);
}

static void hostile_bases(void) {
    lowrank_base_info info;
    lowrank_adapter_info adapter_info;
    uint32_t stops;
    const char *archive = (const char *)archives[0];
    EXPECT(lowrank_verify(NULL, 100, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_verify(NULL, 0, &error), ERROR_TRUNCATED);
    EXPECT(lowrank_verify(archive, ENDLESS, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_verify(archive, lengths[0] - 1, &error), ERROR_TRUNCATED);
    EXPECT(lowrank_verify(archive + 1, lengths[0] - 1, &error), ERROR_NOT_AN_ARCHIVE);
    EXPECT(lowrank_verify(archive, lengths[0], &error), OK);
    EXPECT(lowrank_archive_kind(NULL, 100, &stops, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_archive_kind(archive, 10, &stops, &error), ERROR_TRUNCATED);
    EXPECT(lowrank_archive_kind(archive, lengths[0], NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_archive_kind(archive, lengths[0], (uint32_t *)(uintptr_t)archive, &error), ERROR_OVERLAP);
    EXPECT(lowrank_archive_kind(archive, lengths[0], &stops, &error), OK);
    TRUE(stops == LOWRANK_KIND_LLAMA);

    EXPECT(lowrank_base_open(NULL, LOWRANK_BASE_BYTES, archive, lengths[0], &base, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_open(base_memory[0], lowrank_base_bytes() - 1, archive, lengths[0], &base, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, NULL, lengths[0], &base, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, archive, 0, &base, &error), ERROR_TRUNCATED);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, archive, ENDLESS, &base, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, base_memory[0], 64, &base, &error), ERROR_OVERLAP);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, archives[1], lengths[1], &base, &error), ERROR_WRONG_ROOT);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, archive, lengths[0], NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, archive, lengths[0], ODD(lowrank_base *, garbage), &error),
           ERROR_MISALIGNED_POINTER);
    EXPECT(lowrank_base_open(base_memory[0], LOWRANK_BASE_BYTES, archive, lengths[0], &base, &error), OK);
    EXPECT(lowrank_base_open(base_memory[1], LOWRANK_BASE_BYTES, archives[3], lengths[3], &text_base, &error), OK);
    EXPECT(lowrank_base_get_info(NULL, &info, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_get_info(base, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_get_info(ODD(lowrank_base, base), &info, &error), ERROR_MISALIGNED_POINTER);
    EXPECT(lowrank_base_get_info(base, (lowrank_base_info *)(void *)base, &error), ERROR_OVERLAP);
    EXPECT(lowrank_base_get_info(base, (lowrank_base_info *)(uintptr_t)archive, &error), ERROR_OVERLAP);
    EXPECT(lowrank_base_get_info(GARBAGE(lowrank_base), &info, &error), ERROR_NOT_AN_OBJECT);
    memcpy(copy, base, LOWRANK_BASE_BYTES);
    EXPECT(lowrank_base_get_info((lowrank_base *)(void *)copy, &info, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_base_get_info(base, &info, &error), OK);
    vocab = info.vocab;
    TRUE(vocab > 200 && vocab < 100000 && info.kind == LOWRANK_KIND_LLAMA && info.name_bytes > 0);
    EXPECT(lowrank_base_is_stop(NULL, 1, &stops, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_is_stop(base, 1, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_is_stop(GARBAGE(lowrank_base), 1, &stops, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_base_is_stop(base, 0xffffffff, &stops, &error), OK);
    TRUE(stops == 0);

    EXPECT(lowrank_adapter_open(NULL, LOWRANK_ADAPTER_BYTES, archives[1], lengths[1], &adapters[0], &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_open(adapter_memory[0], 0, archives[1], lengths[1], &adapters[0], &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_adapter_open(adapter_memory[0], LOWRANK_ADAPTER_BYTES, NULL, 1, &adapters[0], &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_open(adapter_memory[0], LOWRANK_ADAPTER_BYTES, archives[0], lengths[0], &adapters[0], &error), ERROR_WRONG_ROOT);
    EXPECT(lowrank_adapter_open(adapter_memory[0], LOWRANK_ADAPTER_BYTES, archives[1], lengths[1], NULL, &error), ERROR_NULL_POINTER);
    for (int i = 0; i < 2; i++) {
        EXPECT(lowrank_adapter_open(adapter_memory[i], LOWRANK_ADAPTER_BYTES, archives[i + 1], lengths[i + 1], &adapters[i], &error), OK);
    }
    EXPECT(lowrank_adapter_get_info(NULL, &adapter_info, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_get_info(adapters[0], NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_get_info((lowrank_adapter *)(void *)base, &adapter_info, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_adapter_get_info(adapters[0], &adapter_info, &error), OK);
    TRUE(adapter_info.max_rank == 4 && memcmp(adapter_info.base, info.fingerprint, 16) == 0);
}

static void hostile_sets(void) {
    uint64_t generation = 7, now;
    uint32_t occupied;
    EXPECT(lowrank_set_open(NULL, sizeof set_memory, base, 2, &set, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_open(set_memory, lowrank_set_bytes(2) - 1, base, 2, &set, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, base, 3000, &set, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, NULL, 2, &set, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, GARBAGE(lowrank_base), 2, &set, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, base, 0, &set, &error), ERROR_LIMIT);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, base, 0xffffffff, &set, &error), ERROR_LIMIT);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, base, 2, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_open(base, LOWRANK_BASE_BYTES, base, 2, &set, &error), ERROR_OVERLAP);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, base, 2, &set, &error), OK);

    EXPECT(lowrank_set_attach(NULL, 0, adapters[0], &generation, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_attach(GARBAGE(lowrank_set), 0, adapters[0], &generation, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_set_attach(set, 0, NULL, &generation, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_attach(set, 0, GARBAGE(lowrank_adapter), &generation, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_set_attach(set, 2, adapters[0], &generation, &error), ERROR_NO_SUCH_SLOT);
    EXPECT(lowrank_set_attach(set, 0xffffffff, adapters[0], &generation, &error), ERROR_NO_SUCH_SLOT);
    EXPECT(lowrank_set_attach(set, 0, adapters[0], ODD(uint64_t, garbage), &error), ERROR_MISALIGNED_POINTER);
    /* The slots, which lie behind the object. */
    EXPECT(lowrank_set_attach(set, 0, adapters[0], (uint64_t *)(void *)((char *)set + lowrank_set_bytes(2) - 8), &error), ERROR_OVERLAP);
    CODE(lowrank_set_attach(set, 7, adapters[0], NULL, (lowrank_error *)(void *)((char *)set + lowrank_set_bytes(2) - 8)), ERROR_OVERLAP);
    EXPECT(lowrank_set_get(set, 0, &now, &occupied, &error), OK);
    TRUE(generation == 7 && now == 0 && occupied == 0);
    EXPECT(lowrank_set_attach(set, 0, adapters[0], NULL, &error), OK);
    EXPECT(lowrank_set_attach(set, 0, adapters[1], &generation, &error), ERROR_SLOT_TAKEN);
    EXPECT(lowrank_set_replace(NULL, 0, 1, adapters[1], &generation, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_replace(set, 0, 1, NULL, &generation, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_replace(set, 0, 0, adapters[1], &generation, &error), ERROR_STALE_GENERATION);
    EXPECT(lowrank_set_replace(set, 0, UINT64_MAX, adapters[1], &generation, &error), ERROR_STALE_GENERATION);
    EXPECT(lowrank_set_replace(set, 9, 0, adapters[1], &generation, &error), ERROR_NO_SUCH_SLOT);
    EXPECT(lowrank_set_replace(set, 0, 1, adapters[1], &generation, &error), OK);
    TRUE(generation == 2);
    EXPECT(lowrank_set_detach(NULL, 0, 2, &generation, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_detach(set, 0, 1, &generation, &error), ERROR_STALE_GENERATION);
    EXPECT(lowrank_set_detach(set, 5, 1, &generation, &error), ERROR_NO_SUCH_SLOT);
    EXPECT(lowrank_set_get(NULL, 0, &now, &occupied, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_get(set, 2, &now, &occupied, &error), ERROR_NO_SUCH_SLOT);
    EXPECT(lowrank_set_get(set, 0, (uint64_t *)(void *)garbage, (uint32_t *)(void *)garbage, &error), ERROR_OVERLAP);
    EXPECT(lowrank_set_get(set, 0, NULL, NULL, &error), OK);
    EXPECT(lowrank_set_get(set, 0, &now, &occupied, &error), OK);
    TRUE(now == 2 && occupied == 1);
    EXPECT(lowrank_set_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_set_close(GARBAGE(lowrank_set), &error), ERROR_NOT_AN_OBJECT);
}

static void hostile_samplers(void) {
    lowrank_sampling sampling = lowrank_sampling_default();
    EXPECT(lowrank_sampler_open(NULL, LOWRANK_SAMPLER_BYTES, NULL, &sampler, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_sampler_open(sampler_memory, 1, NULL, &sampler, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, ODD(lowrank_sampling, garbage), &sampler, &error),
           ERROR_MISALIGNED_POINTER);
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, NULL, NULL, &error), ERROR_NULL_POINTER);
    sampling.size = 1;
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, &sampling, &sampler, &error), ERROR_OPTIONS_SIZE);
    sampling.size = sizeof sampling;
    sampling.temperature = (float)NAN;
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, &sampling, &sampler, &error), ERROR_SAMPLING);
    sampling.temperature = -1.0f;
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, &sampling, &sampler, &error), ERROR_SAMPLING);
    sampling.temperature = 1.0f;
    sampling.top_p = 0.0f;
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, &sampling, &sampler, &error), ERROR_SAMPLING);
    sampling.top_p = 0.5f;
    sampling.min_p = 1.5f;
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, &sampling, &sampler, &error), ERROR_SAMPLING);
    sampling.min_p = 0.05f;
    sampling.top_k = 0xffffffff;
    EXPECT(lowrank_sampler_open(sampler_memory, LOWRANK_SAMPLER_BYTES, &sampling, &sampler, &error), OK);
    {
        float logits[4] = {0.0f, 2.0f, (float)NAN, 1.0f};
        uint32_t scratch[8], token;
        EXPECT(lowrank_sampler_sample(NULL, logits, 2, NULL, 0, scratch, 16, &token, &error), ERROR_NULL_POINTER);
        EXPECT(lowrank_sampler_sample(sampler, NULL, 2, NULL, 0, scratch, 16, &token, &error), ERROR_NULL_POINTER);
        EXPECT(lowrank_sampler_sample(sampler, logits, ENDLESS, NULL, 0, scratch, 16, &token, &error), ERROR_TOO_LONG);
        EXPECT(lowrank_sampler_sample(sampler, logits, 2, NULL, 1, scratch, 16, &token, &error), ERROR_NULL_POINTER);
        EXPECT(lowrank_sampler_sample(sampler, logits, 2, NULL, 0, logits, 16, &token, &error), ERROR_OVERLAP);
        EXPECT(lowrank_sampler_sample(sampler, logits, 2, NULL, 0, scratch, 15, &token, &error), ERROR_BUFFER_TOO_SMALL);
        EXPECT(lowrank_sampler_sample(sampler, logits, 2, NULL, 0, scratch, 16, NULL, &error), ERROR_NULL_POINTER);
        EXPECT(lowrank_sampler_sample(sampler, logits, 0, NULL, 0, NULL, 0, &token, &error), ERROR_BAD_LOGITS);
        EXPECT(lowrank_sampler_sample(sampler, logits, 4, NULL, 0, scratch, 32, &token, &error), ERROR_BAD_LOGITS);
        EXPECT(lowrank_sampler_sample(sampler, logits, 2, NULL, 0, scratch, 16, &token, &error), OK);
    }
    EXPECT(lowrank_sampler_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_sampler_close(GARBAGE(lowrank_sampler), &error), ERROR_NOT_AN_OBJECT);
}

static lowrank_code inner;

/* An executor that uses the session that it works for. */
static void greedy_callback(void *context, size_t tasks, lowrank_task task, void *argument) {
    (void)context;
    inner = lowrank_session_reset(session, 0, NULL);
    while (tasks-- > 0) {
        task(argument);
    }
}

static void hostile_sessions(void) {
    lowrank_limits limits = lowrank_limits_default(64), bad;
    lowrank_need need;
    lowrank_executor executor;
    lowrank_choice choices[40];
    lowrank_next next[3];
    uint32_t tokens[100], token;
    const uint32_t *history;
    const float *logits;
    const char *name;
    float scores[4];
    size_t count, room;
    char *memory, *workspace;
    limits.batch = 2;
    limits.threads = 2;
    limits.max_total_rank = 8;

    EXPECT(lowrank_session_need(NULL, &limits, &need, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_need(base, NULL, &need, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_need(base, &limits, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_need(base, &limits, (lowrank_need *)(void *)&limits, &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_need(GARBAGE(lowrank_base), &limits, &need, &error), ERROR_NOT_AN_OBJECT);
    bad = limits;
    bad.kv_format = 99;
    EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_UNKNOWN_CONSTANT);
    bad = limits;
    bad.precision = 99;
    EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_UNKNOWN_CONSTANT);
    bad = limits;
    bad.device = 99;
    EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_UNKNOWN_CONSTANT);
    bad.device = LOWRANK_DEVICE_CUDA;
    if (!(lowrank_features() & LOWRANK_FEATURE_CUDA)) {
        EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_WITHOUT_CUDA);
    }
    bad = lowrank_limits_default(0);
    EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_LIMIT);
    memset(&bad, 0xff, sizeof bad);
    EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_OPTIONS_SIZE);
    bad.size = sizeof bad;
    bad.device = LOWRANK_DEVICE_CPU;
    bad.kv_format = LOWRANK_KV_F16;
    bad.precision = LOWRANK_PRECISION_EXACT;
    EXPECT(lowrank_session_need(base, &bad, &need, &error), ERROR_LIMIT);
    EXPECT(lowrank_session_need(base, &limits, &need, &error), OK);

    memory = (char *)malloc(need.bytes + 128);
    workspace = memory + (64 - (uintptr_t)memory % 64);
    memset(memory, 0xff, need.bytes + 128);
    executor.run = greedy_callback;
    executor.context = NULL;
#define OPEN(object, bytes, of, under, space, space_bytes, by, to) \
    lowrank_session_open(object, bytes, of, under, space, space_bytes, by, to, &error)
    EXPECT(OPEN(NULL, LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes, NULL, &session), ERROR_NULL_POINTER);
    EXPECT(OPEN(session_memory, 100, base, &limits, workspace, need.bytes, NULL, &session), ERROR_OBJECT_TOO_SMALL);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, NULL, &limits, workspace, need.bytes, NULL, &session), ERROR_NULL_POINTER);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, (lowrank_base *)(void *)set, &limits, workspace, need.bytes, NULL, &session),
           ERROR_NOT_AN_OBJECT);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, NULL, workspace, need.bytes, NULL, &session), ERROR_NULL_POINTER);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &bad, workspace, need.bytes, NULL, &session), ERROR_LIMIT);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, NULL, need.bytes, NULL, &session), ERROR_NULL_POINTER);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, NULL, 0, NULL, &session), ERROR_WORKSPACE_TOO_SMALL);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes - 1, NULL, &session), ERROR_WORKSPACE_TOO_SMALL);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace + 1, need.bytes, NULL, &session), ERROR_MISALIGNED);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace, ENDLESS, NULL, &session), ERROR_TOO_LONG);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, session_memory, 64, NULL, &session), ERROR_OVERLAP);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, (void *)(uintptr_t)archives[0], need.bytes, NULL, &session),
           ERROR_OVERLAP);
    EXPECT(OPEN((void *)(uintptr_t)archives[0], LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes, NULL, &session), ERROR_OVERLAP);
    EXPECT(OPEN(workspace, need.bytes, base, &limits, workspace, need.bytes, NULL, &session), ERROR_OVERLAP);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes, ODD(lowrank_executor, garbage), &session),
           ERROR_MISALIGNED_POINTER);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes, &executor, NULL), ERROR_NULL_POINTER);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes, &executor, (lowrank_session **)(void *)workspace),
           ERROR_OVERLAP);
    EXPECT(OPEN(session_memory, LOWRANK_SESSION_BYTES, base, &limits, workspace, need.bytes, &executor, &session), OK);

    for (int i = 0; i < 40; i++) {
        choices[i].slot = 0;
        choices[i].weight = 1.0f;
        choices[i].rank = 0;
    }
    EXPECT(lowrank_session_select(NULL, 0, set, choices, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_select(GARBAGE(lowrank_session), 0, set, choices, 1, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_session_select(session, 0, NULL, choices, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_select(session, 0, GARBAGE(lowrank_set), choices, 1, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_session_select(session, 0, set, NULL, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_select(session, 0, set, choices, ENDLESS, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_session_select(session, 0, set, choices, 40, &error), ERROR_TOO_MANY_CHOICES);
    EXPECT(lowrank_session_select(session, 0, set, choices, 3, &error), ERROR_TOO_MANY_ACTIVE);
    EXPECT(lowrank_session_select(session, 0, set, choices, 2, &error), ERROR_TOTAL_RANK);
    EXPECT(lowrank_session_select(session, 9, set, choices, 1, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_select(session, 0, set, (lowrank_choice *)(void *)workspace, 1, &error), ERROR_OVERLAP);
    choices[0].slot = 1;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), ERROR_EMPTY_SLOT);
    choices[0].slot = 77;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), ERROR_NO_SUCH_SLOT);
    choices[0].slot = 0;
    choices[0].weight = 0.0f;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), ERROR_NO_WEIGHT);
    choices[0].weight = (float)INFINITY;
    choices[0].weight = 0.0f;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), ERROR_NO_WEIGHT);
    choices[0].weight = (float)INFINITY;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), ERROR_ADAPTER_WEIGHT);
    choices[0].weight = 0.5f;
    choices[0].rank = 99;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), ERROR_RANK);
    choices[0].rank = 2;
    EXPECT(lowrank_session_select(session, 0, set, choices, 1, &error), OK);

    memset(tokens, 0, sizeof tokens);
    EXPECT(lowrank_session_sample(session, 0, sampler, &token, &error), ERROR_NO_LOGITS);
    EXPECT(lowrank_session_prefill(NULL, 0, tokens, 3, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_prefill(session, 0, NULL, 3, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_prefill(session, 0, NULL, 0, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_prefill(session, 0, ODD(uint32_t, garbage), 3, &error), ERROR_MISALIGNED_POINTER);
    EXPECT(lowrank_session_prefill(session, 0, tokens, (size_t)-1 / 4, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_session_prefill(session, 0, tokens, (size_t)-1, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_session_prefill(session, 0, tokens, 65, &error), ERROR_CONTEXT_FULL);
    EXPECT(lowrank_session_prefill(session, (size_t)-1, tokens, 3, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_prefill(session, 0, (uint32_t *)(void *)workspace, 3, &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_prefill(session, 0, (uint32_t *)(void *)session, 3, &error), ERROR_OVERLAP);
    CODE(lowrank_session_prefill(session, 0, tokens, 3, (lowrank_error *)(void *)workspace), ERROR_OVERLAP);
    tokens[2] = vocab;
    EXPECT(lowrank_session_prefill(session, 0, tokens, 3, &error), ERROR_TOKEN);
    tokens[2] = 5;
    EXPECT(lowrank_session_prefill(session, 0, tokens, 3, &error), OK);
    TRUE(inner == LOWRANK_ERROR_BUSY);

    next[0].sequence = 0;
    next[0].token = 4;
    next[1] = next[0];
    next[2] = next[0];
    EXPECT(lowrank_session_step(NULL, next, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_step(session, NULL, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_step(session, next, 0, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_step(session, next, 3, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_step(session, next, 2, &error), ERROR_DUPLICATE_SEQUENCE);
    EXPECT(lowrank_session_step(session, next, (size_t)-1, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_session_step(session, (lowrank_next *)(void *)workspace, 1, &error), ERROR_OVERLAP);
    next[1].sequence = 2;
    EXPECT(lowrank_session_step(session, next, 2, &error), ERROR_NO_SUCH_SEQUENCE);
    next[1].sequence = 1;
    next[1].token = 0xffffffff;
    EXPECT(lowrank_session_step(session, next, 2, &error), ERROR_TOKEN);
    next[1].token = 7;
    EXPECT(lowrank_session_step(session, next, 2, &error), OK);

    lowrank_chunk chunks[3];
    chunks[0].sequence = 0;
    chunks[0].tokens = tokens;
    chunks[0].count = 2;
    chunks[1] = chunks[0];
    chunks[2] = chunks[0];
    EXPECT(lowrank_session_advance(NULL, chunks, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_advance(session, NULL, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_advance(session, chunks, 0, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_advance(session, chunks, 3, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), ERROR_DUPLICATE_SEQUENCE);
    EXPECT(lowrank_session_advance(session, chunks, (size_t)-1, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_session_advance(session, (lowrank_chunk *)(void *)workspace, 1, &error), ERROR_OVERLAP);
    chunks[1].sequence = 1;
    chunks[1].tokens = NULL;
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), ERROR_NULL_POINTER);
    chunks[1].tokens = (const uint32_t *)(const void *)((const char *)tokens + 1);
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), ERROR_MISALIGNED_POINTER);
    chunks[1].tokens = (const uint32_t *)(const void *)workspace;
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), ERROR_OVERLAP);
    chunks[1].tokens = tokens;
    chunks[1].count = (size_t)-1;
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), ERROR_TOO_LONG);
    chunks[1].count = 0;
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), ERROR_LENGTH);
    chunks[1].count = 1;
    EXPECT(lowrank_session_advance(session, chunks, 2, &error), OK);
    EXPECT(lowrank_session_fork(NULL, 0, 1, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_fork(session, 0, 2, 1, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_fork(session, 1, 1, 1, &error), ERROR_DUPLICATE_SEQUENCE);
    EXPECT(lowrank_session_fork(session, 1, 0, (size_t)-1, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_rewind(NULL, 0, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_rewind(session, 0, (size_t)-1, &error), ERROR_LENGTH);
    EXPECT(lowrank_session_cancel(NULL, 0, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_cancel(session, 9, &error), ERROR_NO_SUCH_SEQUENCE);
    /* Back to what both had. */
    EXPECT(lowrank_session_rewind(session, 0, 3, &error), OK);
    EXPECT(lowrank_session_rewind(session, 1, 0, &error), OK);
    EXPECT(lowrank_session_step(session, next, 2, &error), OK);

    EXPECT(lowrank_session_sample(NULL, 0, sampler, &token, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_sample(session, 0, NULL, &token, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_sample(session, 0, GARBAGE(lowrank_sampler), &token, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_session_sample(session, 0, (lowrank_sampler *)(void *)session, &token, &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_sample(session, 0, sampler, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_sample(session, 0, sampler, (uint32_t *)(void *)(workspace + 64), &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_sample(session, 3, sampler, &token, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_sample(session, 1, sampler, &token, &error), OK);
    TRUE(token < vocab);
    EXPECT(lowrank_session_logits(NULL, 0, &logits, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_logits(session, 0, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_logits(session, 0, &logits, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_logits(session, 2, &logits, &count, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_logits(session, 0, &logits, &count, &error), OK);
    TRUE(count == vocab);
    EXPECT(lowrank_session_tokens(NULL, 0, &history, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_tokens(session, 0, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_tokens(session, 2, &history, &count, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_tokens(session, 0, &history, &count, &error), OK);
    TRUE(count == 4 && history[3] == 4);
    /* What a session hands out is its memory. */
    EXPECT(lowrank_session_prefill(session, 0, history, count, &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_room(NULL, 0, &room, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_room(session, 0, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_room(session, 0, &room, &error), OK);
    TRUE(room == 60);
    EXPECT(lowrank_session_select(session, 0, set, NULL, 0, &error), ERROR_CACHE_OF_OTHER_ADAPTERS);
    EXPECT(lowrank_session_reset(NULL, 0, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_reset(session, 2, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_reset(session, 0, &error), OK);
    EXPECT(lowrank_session_select(session, 0, set, NULL, 0, &error), OK);

    /* No adapter here brings a classifier. */
    EXPECT(lowrank_session_classify(NULL, 0, tokens, 3, scores, 4, &count, &token, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_classify(session, 0, NULL, 3, scores, 4, &count, &token, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_classify(session, 0, tokens, 3, NULL, 4, &count, &token, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_classify(session, 0, tokens, 3, scores, 4, NULL, &token, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_classify(session, 0, tokens, 3, scores, ENDLESS, &count, &token, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_session_classify(session, 0, tokens, 3, (float *)(void *)workspace, 4, &count, &token, &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_classify(session, 0, tokens, 3, (float *)(void *)tokens, 4, &count, &token, &error), ERROR_OVERLAP);
    EXPECT(lowrank_session_classify(session, 9, tokens, 3, scores, 4, &count, &token, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_classify(session, 0, tokens, 3, scores, 4, &count, &token, &error), ERROR_CLASSIFIERS);
    EXPECT(lowrank_session_label(NULL, 0, 0, &name, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_label(session, 0, 0, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_label(session, 0, 0, &name, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_label(session, 0, 0, &name, &count, &error), ERROR_CLASSIFIERS);

    EXPECT(lowrank_session_score(session, 0, tokens, 3, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_score(session, 0, NULL, 3, scores, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_score(session, 9, tokens, 1, scores, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_session_score(session, 0, tokens, 0, scores, &error), ERROR_LENGTH);
    EXPECT(lowrank_limits_for_model(NULL, 8, 1, &limits, sizeof limits, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_limits_for_model(base, 8, 1, NULL, sizeof limits, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_limits_for_model(base, 8, 1, &limits, 8, &error), ERROR_OPTIONS_SIZE);
    EXPECT(lowrank_limits_for_model(base, 8, 1, &limits, sizeof limits, &error), OK);

    memcpy(copy, session, LOWRANK_SESSION_BYTES);
    EXPECT(lowrank_session_reset((lowrank_session *)(void *)copy, 0, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_session_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_session_close((lowrank_session *)(void *)copy, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_session_close(session, &error), OK);
    EXPECT(lowrank_session_close(session, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_session_prefill(session, 0, tokens, 3, &error), ERROR_NOT_AN_OBJECT);
    free(memory);
}

static void hostile_text(void) {
    uint32_t tokens[100] = {0};
    size_t count, bytes;
    char buffer[200];
    lowrank_message messages[2];
    EXPECT(lowrank_text_open(NULL, LOWRANK_TEXT_BYTES, text_base, &text, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_text_open(text_memory, 8, text_base, &text, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_text_open(text_memory, LOWRANK_TEXT_BYTES, NULL, &text, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_text_open(text_memory, LOWRANK_TEXT_BYTES, GARBAGE(lowrank_base), &text, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_text_open(text_memory, LOWRANK_TEXT_BYTES, text_base, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_text_open(text_memory, LOWRANK_TEXT_BYTES, text_base, &text, &error), OK);

    EXPECT(lowrank_tokenize(NULL, "ab", 2, 0, tokens, 100, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_generate(NULL, 0, text, sampler, "a", 1, 1, NULL, NULL, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_generate(GARBAGE(lowrank_session), 0, text, sampler, "a", 1, 1, NULL, NULL, NULL, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_generate(GARBAGE(lowrank_session), 0, text, NULL, "a", 1, 1, NULL, NULL, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_generate(GARBAGE(lowrank_session), 0, text, sampler, NULL, 1, 1, NULL, NULL, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_tokenize(GARBAGE(lowrank_text), "ab", 2, 0, tokens, 100, &count, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_tokenize(text, NULL, 2, 0, tokens, 100, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_tokenize(text, NULL, 0, 0, NULL, 0, &count, &error), OK);
    TRUE(count == 0);
    EXPECT(lowrank_tokenize(text, "ab", ENDLESS, 0, tokens, 100, &count, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_tokenize(text, "a\xff", 2, 0, tokens, 100, &count, &error), ERROR_NOT_UTF8);
    EXPECT(lowrank_tokenize(text, "ab", 2, 0xfc, tokens, 100, &count, &error), ERROR_UNKNOWN_CONSTANT);
    EXPECT(lowrank_tokenize(text, "ab", 2, 0, NULL, 100, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_tokenize(text, "ab", 2, 0, tokens, 100, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_tokenize(text, (char *)tokens, 2, 0, tokens, 100, &count, &error), ERROR_OVERLAP);
    EXPECT(lowrank_tokenize(text, "hello", 5, LOWRANK_PROMPT, tokens, 1, &count, &error), ERROR_BUFFER_TOO_SMALL);
    TRUE(count > 1 && tokens[0] == 0);
    EXPECT(lowrank_tokenize(text, "hello", 5, LOWRANK_SPECIAL, tokens, 100, &count, &error), OK);

    EXPECT(lowrank_detokenize(NULL, tokens, count, 0, buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_detokenize(text, NULL, count, 0, buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_detokenize(text, tokens, (size_t)-1, 0, buffer, sizeof buffer, &bytes, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_detokenize(text, tokens, count, LOWRANK_PROMPT, buffer, sizeof buffer, &bytes, &error), ERROR_UNKNOWN_CONSTANT);
    EXPECT(lowrank_detokenize(text, tokens, count, 0, NULL, 1, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_detokenize(text, tokens, count, 0, buffer, sizeof buffer, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_detokenize(text, tokens, count, 0, buffer, 1, &bytes, &error), ERROR_BUFFER_TOO_SMALL);
    EXPECT(lowrank_detokenize(text, tokens, count, 0, buffer, sizeof buffer, &bytes, &error), OK);
    TRUE(bytes == 5 && memcmp(buffer, "hello", 5) == 0);
    tokens[0] = 0xffffffff;
    EXPECT(lowrank_detokenize(text, tokens, 1, 0, buffer, sizeof buffer, &bytes, &error), OK);

    messages[0].role = "user";
    messages[0].role_bytes = 4;
    messages[0].content = "hello";
    messages[0].content_bytes = 5;
    messages[1] = messages[0];
    EXPECT(lowrank_render_chat(NULL, messages, 1, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_render_chat(text, NULL, 1, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_render_chat(text, messages, (size_t)-1, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_render_chat(text, messages, 2, NULL, 0, 1, NULL, 1, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_render_chat(text, messages, 2, NULL, 0, 1, buffer, sizeof buffer, NULL, &error), ERROR_NULL_POINTER);
    messages[1].content = NULL;
    EXPECT(lowrank_render_chat(text, messages, 2, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    messages[1].content = "\xc3";
    messages[1].content_bytes = 1;
    EXPECT(lowrank_render_chat(text, messages, 2, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_NOT_UTF8);
    messages[1].content = buffer;
    EXPECT(lowrank_render_chat(text, messages, 2, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_OVERLAP);
    /* This base has no chat template. */
    EXPECT(lowrank_render_chat(text, messages, 1, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_TEXT);

    EXPECT(lowrank_stream_open(NULL, LOWRANK_STREAM_BYTES, text, &stream, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_open(stream_memory, 8, text, &stream, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_stream_open(stream_memory, LOWRANK_STREAM_BYTES, NULL, &stream, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_open(stream_memory, LOWRANK_STREAM_BYTES, text, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_open(stream_memory, LOWRANK_STREAM_BYTES, text, &stream, &error), OK);
    EXPECT(lowrank_text_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_text_close(GARBAGE(lowrank_text), &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_tokenize(text, "hello", 5, LOWRANK_SPECIAL, tokens, 100, &count, &error), OK);
    /* The stream outlives the text that it was made from. */
    EXPECT(lowrank_text_close(text, &error), OK);
    EXPECT(lowrank_tokenize(text, "hello", 5, LOWRANK_SPECIAL, tokens, 100, &count, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_stream_push(NULL, tokens[0], buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_push(GARBAGE(lowrank_stream), tokens[0], buffer, sizeof buffer, &bytes, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_stream_push(stream, tokens[0], NULL, 1, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_push(stream, tokens[0], buffer, sizeof buffer, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_push(stream, tokens[0], NULL, 0, &bytes, &error), ERROR_BUFFER_TOO_SMALL);
    EXPECT(lowrank_stream_push(stream, LOWRANK_NO_TOKEN, buffer, sizeof buffer, &bytes, &error), OK);
    TRUE(bytes > 0 && buffer[0] == 'h');
    EXPECT(lowrank_stream_finish(NULL, buffer, sizeof buffer, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_finish(stream, buffer, sizeof buffer, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_finish(stream, buffer, sizeof buffer, &bytes, &error), OK);
    TRUE(bytes == 0);
    EXPECT(lowrank_stream_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_stream_close(stream, &error), OK);
    EXPECT(lowrank_stream_close(stream, &error), ERROR_NOT_AN_OBJECT);
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: hostile BASE ADAPTER ADAPTER TEXT_BASE\n");
        return 2;
    }
    memset(garbage, 0x5a, sizeof garbage);
    memset(session_memory, 0xff, sizeof session_memory);
    hostile_about();
    hostile_files(arguments);
    hostile_bases();
    hostile_archive(archives[1], lengths[1]);
    hostile_archive(archives[3], lengths[3]);
    hostile_sets();
    hostile_samplers();
    hostile_sessions();
    hostile_text();
    EXPECT(lowrank_sampler_close(sampler, &error), OK);
    EXPECT(lowrank_set_close(set, &error), OK);
    EXPECT(lowrank_set_close(set, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_adapter_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_close(GARBAGE(lowrank_adapter), &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_base_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_close(GARBAGE(lowrank_base), &error), ERROR_NOT_AN_OBJECT);
    for (int i = 0; i < 2; i++) {
        EXPECT(lowrank_adapter_close(adapters[i], &error), OK);
    }
    EXPECT(lowrank_base_close(base, &error), OK);
    EXPECT(lowrank_base_close(base, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_base_close(text_base, &error), OK);
    for (int i = 0; i < 4; i++) {
        EXPECT(lowrank_file_close(files[i], &error), OK);
        EXPECT(lowrank_file_close(files[i], &error), ERROR_NOT_AN_OBJECT);
    }
    printf("%d hostile calls, %d wrong answers\n", checks, failures);
    return failures == 0 ? 0 : 1;
}
