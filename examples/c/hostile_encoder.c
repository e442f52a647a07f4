/*
 * As hostile.c, for encoders, training and import: null, misaligned, too short, overlapping, closed, copied, of another type, NaN. Hosted;
 * run it under valgrind or a sanitizer.
 *
 *     hostile_encoder BERT_BASE TEXT_BASE PREFIX      (the tiny encoder, a decoder; writes PREFIX.tsv, PREFIX.lrk, PREFIX.checkpoint)
 */
#include <math.h>
#include <stdlib.h>

#include "hostile.h"

static uint64_t file_memory[3][LOWRANK_FILE_BYTES / 8], base_memory[LOWRANK_BASE_BYTES / 8], other_memory[LOWRANK_BASE_BYTES / 8];
static uint64_t adapter_memory[LOWRANK_ADAPTER_BYTES / 8], set_memory[LOWRANK_SET_BYTES(2) / 8];
static uint64_t encoder_memory[LOWRANK_ENCODER_BYTES / 8], text_memory[LOWRANK_TEXT_BYTES / 8], copy[LOWRANK_ENCODER_BYTES / 8];
static uint64_t session_memory[LOWRANK_SESSION_BYTES / 8];
static const void *archives[3];
static size_t lengths[3];
static char data[600], output[600], checkpoint[600];

static lowrank_file *files[3];
static lowrank_base *base, *decoder;
static lowrank_adapter *adapter;
static lowrank_set *set;
static lowrank_encoder *encoder;
static lowrank_text *text;

static void hostile_bases(void) {
    lowrank_base_info info;
    const char *archive = (const char *)archives[0];
    EXPECT(lowrank_bert_verify(NULL, 100, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_bert_verify(archive, ENDLESS, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_bert_verify(archive, lengths[0] - 1, &error), ERROR_TRUNCATED);
    EXPECT(lowrank_bert_verify(archives[1], lengths[1], &error), ERROR_WRONG_ROOT);
    CODE(lowrank_bert_verify(archive, lengths[0], (lowrank_error *)(uintptr_t)archive), ERROR_OVERLAP);
    EXPECT(lowrank_bert_verify(archive, lengths[0], &error), OK);
    EXPECT(lowrank_verify(archive, lengths[0], &error), ERROR_WRONG_ROOT);
    EXPECT(lowrank_base_open(base_memory, LOWRANK_BASE_BYTES, archive, lengths[0], &base, &error), ERROR_WRONG_ROOT);
    EXPECT(lowrank_bert_open(NULL, LOWRANK_BASE_BYTES, archive, lengths[0], &base, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_bert_open(base_memory, lowrank_base_bytes() - 1, archive, lengths[0], &base, &error), ERROR_OBJECT_TOO_SMALL);
    EXPECT(lowrank_bert_open(base_memory, LOWRANK_BASE_BYTES, NULL, lengths[0], &base, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_bert_open(base_memory, LOWRANK_BASE_BYTES, archive, lengths[0] - 1, &base, &error), ERROR_TRUNCATED);
    EXPECT(lowrank_bert_open(base_memory, LOWRANK_BASE_BYTES, archives[1], lengths[1], &base, &error), ERROR_WRONG_ROOT);
    TRUE(base == NULL);
    EXPECT(lowrank_bert_open(base_memory, LOWRANK_BASE_BYTES, base_memory, 64, &base, &error), ERROR_OVERLAP);
    EXPECT(lowrank_bert_open(base_memory, LOWRANK_BASE_BYTES, archive, lengths[0], NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_bert_open(base_memory, LOWRANK_BASE_BYTES, archive, lengths[0], &base, &error), OK);
    EXPECT(lowrank_base_open(other_memory, LOWRANK_BASE_BYTES, archives[1], lengths[1], &decoder, &error), OK);
    EXPECT(lowrank_base_get_info(base, &info, &error), OK);
    TRUE(info.kind == LOWRANK_KIND_BERT && info.bos == LOWRANK_NO_TOKEN && info.max_length > 0 && info.max_length <= info.context);
    EXPECT(lowrank_base_get_info(decoder, &info, &error), OK);
    TRUE(info.kind == LOWRANK_KIND_LLAMA && info.max_length == info.context);
}

/* Every truncation and many flipped bytes of an encoder's archive: an error or an object, never anything else. */
static void hostile_archive(void) {
    char *memory = (char *)malloc(lengths[0] + 64), *start = memory + (64 - (uintptr_t)memory % 64);
    uint64_t place[LOWRANK_BASE_BYTES / 8];
    lowrank_base *opened;
    memcpy(start, archives[0], lengths[0]);
    for (size_t length = 0; length < lengths[0]; length += length < 300 ? 1 : 1999) {
        TRUE(lowrank_bert_open(place, sizeof place, start, length, &opened, NULL) != LOWRANK_OK && opened == NULL);
        TRUE(lowrank_bert_verify(start, length, NULL) != LOWRANK_OK);
    }
    for (size_t i = 0; i < lengths[0]; i += i < 300 ? 1 : 1499) {
        start[i] ^= 0x55;
        TRUE(lowrank_bert_verify(start, lengths[0], NULL) != LOWRANK_OK);
        lowrank_bert_open(place, sizeof place, start, lengths[0], &opened, NULL);
        start[i] ^= 0x55;
    }
    free(memory);
}

static uint32_t stop_at_once(void *context, const lowrank_train_progress *progress) {
    *(uint64_t *)context = progress->step;
    return 1;
}

static void hostile_training(void) {
    lowrank_train_options good = lowrank_train_options_default(), bad;
    lowrank_train_report report;
    uint64_t seen = 0;
    const void *archive = archives[0];
    FILE *file = fopen(data, "w");
    TRUE(file != NULL);
    fprintf(file, "ab\tshort\na b\tlong\nb\tshort\nb a b\tlong\n");
    fclose(file);
    remove(output);
    remove(checkpoint);
    good.task = LOWRANK_TASK_CLASSIFY;
    good.data = data;
    good.output = output;
    good.steps = 3;
    good.rank = 2;
    good.batch_size = 4;
    good.max_length = 32;
    good.threads = 1;
#define TRAIN(options) lowrank_train(archive, lengths[0], options, NULL, NULL, &report, &error)
#define REFUSED(field, value, expected) \
    bad = good; \
    bad.field = value; \
    EXPECT(TRAIN(&bad), expected)
    EXPECT(lowrank_train(NULL, lengths[0], &good, NULL, NULL, &report, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_train(archive, ENDLESS, &good, NULL, NULL, &report, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_train(archive, lengths[0] - 1, &good, NULL, NULL, &report, &error), ERROR_TRUNCATED);
    EXPECT(TRAIN(NULL), ERROR_NULL_POINTER);
    EXPECT(TRAIN(ODD(lowrank_train_options, garbage)), ERROR_MISALIGNED_POINTER);
    EXPECT(lowrank_train(archive, lengths[0], &good, NULL, NULL, (lowrank_train_report *)(void *)&good, &error), ERROR_OVERLAP);
    EXPECT(lowrank_train(archive, lengths[0], &good, NULL, NULL, (lowrank_train_report *)(uintptr_t)archive, &error), ERROR_OVERLAP);
    CODE(lowrank_train(archive, lengths[0], &good, NULL, NULL, &report, (lowrank_error *)(void *)&good), ERROR_OVERLAP);
    REFUSED(data, NULL, ERROR_NULL_POINTER);
    REFUSED(output, NULL, ERROR_NULL_POINTER);
    REFUSED(data, (const char *)&report, ERROR_OVERLAP);
    REFUSED(name, (const char *)&report, ERROR_OVERLAP);
    REFUSED(data, "no/such/file.tsv", ERROR_FILE);
    REFUSED(data, "no-kind-of-data", ERROR_FILE);
    REFUSED(validation, "no/such/file.tsv", ERROR_FILE);
    REFUSED(output, "no/such/folder/out.lrk", ERROR_FILE);
    REFUSED(name, "\xff", ERROR_NOT_UTF8);
    REFUSED(target_modules, "\xff", ERROR_NOT_UTF8);
    REFUSED(target_modules, "nothing.like.it", ERROR_TRAIN);
    REFUSED(target_modules, "(", ERROR_TRAIN);
    REFUSED(task, 9, ERROR_UNKNOWN_CONSTANT);
    REFUSED(method, 9, ERROR_UNKNOWN_CONSTANT);
    REFUSED(optimizer, 9, ERROR_UNKNOWN_CONSTANT);
    REFUSED(schedule, 9, ERROR_UNKNOWN_CONSTANT);
    REFUSED(method, LOWRANK_METHOD_FULL, ERROR_TRAIN);
    REFUSED(method, LOWRANK_METHOD_DYLORA, ERROR_TRAIN);
    REFUSED(rank, 0, ERROR_TRAIN);
    REFUSED(rank, ENDLESS, ERROR_TRAIN);
    REFUSED(batch_size, 0, ERROR_TRAIN);
    REFUSED(accumulation, 0, ERROR_TRAIN);
    REFUSED(max_length, 1, ERROR_FILE);
    REFUSED(threads, ENDLESS, ERROR_LIMIT);
    REFUSED(warmup, NAN, ERROR_TRAIN);
    REFUSED(warmup, -1.0, ERROR_TRAIN);
    REFUSED(alpha, (float)NAN, ERROR_TRAIN);
    REFUSED(learning_rate, (float)NAN, ERROR_TRAIN);
    REFUSED(learning_rate, -1.0f, ERROR_TRAIN);
    REFUSED(dropout, 1.0f, ERROR_TRAIN);
    REFUSED(patience, 1, ERROR_TRAIN);
    REFUSED(memory_limit, 1, ERROR_TRAIN);
    bad = good;
    bad.steps = 0;
    bad.epochs = 0;
    EXPECT(TRAIN(&bad), ERROR_TRAIN);
    bad = good;
    bad.checkpoint = checkpoint;
    bad.checkpoint_every = 0;
    EXPECT(TRAIN(&bad), ERROR_TRAIN);
    file = fopen(output, "r");
    TRUE(file == NULL);

    /* A run that is stopped leaves a checkpoint and no output; it goes on from there. */
    bad = good;
    bad.checkpoint = checkpoint;
    EXPECT(lowrank_train(archive, lengths[0], &bad, stop_at_once, &seen, &report, &error), OK);
    TRUE(seen == 1 && report.stopped == 1 && report.steps == 1);
    file = fopen(output, "r");
    TRUE(file == NULL);
    bad.resume = 1;
    bad.rank = 3;
    TRUE(TRAIN(&bad) != LOWRANK_OK);
    bad.rank = 2;
    EXPECT(TRAIN(&bad), OK);
    TRUE(report.stopped == 0 && report.steps == 3 && report.rank == 2 && isnan(report.validation_loss) && report.rows > 0);
    file = fopen(checkpoint, "r");
    TRUE(file == NULL);
    EXPECT(lowrank_train(archive, lengths[0], &good, NULL, NULL, NULL, &error), OK);
}

static void hostile_import(const char *path) {
#define IMPORT(source, archive, bytes, output, its_name, its_factors) \
    (options.name = its_name, options.factors = its_factors, lowrank_adapter_import(source, archive, bytes, output, &options, &error))
    lowrank_adapter_import_options options = lowrank_adapter_import_options_default();
    EXPECT(IMPORT(NULL, archives[0], lengths[0], output, NULL, 0), ERROR_NULL_POINTER);
    EXPECT(IMPORT("no/such/folder", NULL, lengths[0], output, NULL, 0), ERROR_NULL_POINTER);
    EXPECT(IMPORT("no/such/folder", archives[0], ENDLESS, output, NULL, 0), ERROR_TOO_LONG);
    EXPECT(IMPORT("no/such/folder", archives[0], lengths[0] - 1, output, NULL, 0), ERROR_TRUNCATED);
    EXPECT(IMPORT("no/such/folder", archives[0], lengths[0], NULL, NULL, 0), ERROR_NULL_POINTER);
    EXPECT(IMPORT("no/such/folder", archives[0], lengths[0], output, "\xff", 0), ERROR_NOT_UTF8);
    EXPECT(IMPORT("no/such/folder", archives[0], lengths[0], output, NULL, 4), ERROR_UNKNOWN_CONSTANT);
    EXPECT(IMPORT("no/such/folder", archives[0], lengths[0], output, NULL, LOWRANK_FACTORS_F16), ERROR_FILE);
    EXPECT(IMPORT("no/such.gguf", archives[1], lengths[1], output, NULL, LOWRANK_FACTORS_AS_IS), ERROR_FILE);
    EXPECT(IMPORT(path, archives[1], lengths[1], output, NULL, LOWRANK_FACTORS_AS_IS), ERROR_FILE);
}

static void hostile_sets(void) {
    lowrank_adapter_info info;
    const char *name;
    size_t bytes;
    EXPECT(lowrank_file_open(file_memory[2], LOWRANK_FILE_BYTES, output, &files[2], &error), OK);
    EXPECT(lowrank_file_archive(files[2], &archives[2], &lengths[2], &error), OK);
    EXPECT(lowrank_adapter_open(adapter_memory, LOWRANK_ADAPTER_BYTES, archives[2], lengths[2], &adapter, &error), OK);
    EXPECT(lowrank_adapter_get_info(adapter, &info, &error), OK);
    TRUE(info.labels == 2 && info.max_rank == 2);
    EXPECT(lowrank_adapter_label(NULL, 0, &name, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_label(GARBAGE(lowrank_adapter), 0, &name, &bytes, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_adapter_label(adapter, 0, NULL, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_label(adapter, 0, &name, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_adapter_label(adapter, 0, &name, (size_t *)(void *)&name, &error), ERROR_OVERLAP);
    EXPECT(lowrank_adapter_label(adapter, 0, (const char **)(uintptr_t)archives[2], &bytes, &error), ERROR_OVERLAP);
    EXPECT(lowrank_adapter_label(adapter, 2, &name, &bytes, &error), ERROR_LENGTH);
    EXPECT(lowrank_adapter_label(adapter, 0xffffffff, &name, &bytes, &error), ERROR_LENGTH);
    EXPECT(lowrank_adapter_label(adapter, 1, &name, &bytes, &error), OK);
    TRUE((bytes == 5 && memcmp(name, "short", 5) == 0) || (bytes == 4 && memcmp(name, "long", 4) == 0));
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, decoder, 2, &set, &error), OK);
    EXPECT(lowrank_set_attach(set, 0, adapter, NULL, &error), ERROR_OTHER_BASE);
    EXPECT(lowrank_set_close(set, &error), OK);
    EXPECT(lowrank_set_open(set_memory, sizeof set_memory, base, 2, &set, &error), OK);
    EXPECT(lowrank_set_attach(set, 0, adapter, NULL, &error), OK);
    EXPECT(lowrank_set_attach(set, 1, adapter, NULL, &error), OK);
}

static lowrank_code inner;

/* An executor that uses the encoder that it works for. */
static void greedy_callback(void *context, size_t tasks, lowrank_task task, void *argument) {
    lowrank_choice choice = LOWRANK_CHOICE(0);
    (void)context;
    inner = lowrank_encoder_select(encoder, 0, set, &choice, 1, NULL);
    while (tasks-- > 0) {
        task(argument);
    }
}

static void hostile_encoders(void) {
    lowrank_encoder_limits limits = lowrank_encoder_limits_default(32), bad;
    lowrank_limits session_limits = lowrank_limits_default(32);
    lowrank_session *session;
    lowrank_need need;
    lowrank_executor executor;
    lowrank_choice choices[40];
    uint32_t tokens[64], types[64], label;
    size_t sizes[3] = {4, 6, 8}, count, bytes;
    const float *values;
    float logits[4];
    const char *name;
    char *memory, *workspace;
    limits.batch = 2;
    limits.tokens = 40;
    limits.threads = 2;
    EXPECT(lowrank_encoder_need(NULL, &limits, &need, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_need(base, NULL, &need, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_need(base, &limits, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_need(base, &limits, (lowrank_need *)(void *)&limits, &error), ERROR_OVERLAP);
    EXPECT(lowrank_encoder_need(GARBAGE(lowrank_base), &limits, &need, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_encoder_need(decoder, &limits, &need, &error), ERROR_WRONG_ROOT);
    EXPECT(lowrank_session_need(base, &session_limits, &need, &error), ERROR_WRONG_ROOT);
    bad = limits;
    bad.precision = 99;
    EXPECT(lowrank_encoder_need(base, &bad, &need, &error), ERROR_UNKNOWN_CONSTANT);
    memset(&bad, 0xff, sizeof bad);
    EXPECT(lowrank_encoder_need(base, &bad, &need, &error), ERROR_OPTIONS_SIZE);
    bad.size = sizeof bad;
    bad.precision = LOWRANK_PRECISION_EXACT;
    EXPECT(lowrank_encoder_need(base, &bad, &need, &error), ERROR_UNKNOWN_CONSTANT);
    bad.device = LOWRANK_DEVICE_CUDA;
    if (!(lowrank_features() & LOWRANK_FEATURE_CUDA)) {
        EXPECT(lowrank_encoder_need(base, &bad, &need, &error), ERROR_WITHOUT_CUDA);
    }
    bad.device = LOWRANK_DEVICE_CPU;
    EXPECT(lowrank_encoder_need(base, &bad, &need, &error), ERROR_LIMIT);
    bad = lowrank_encoder_limits_default(0);
    EXPECT(lowrank_encoder_need(base, &bad, &need, &error), ERROR_LIMIT);
    EXPECT(lowrank_encoder_need(base, &limits, &need, &error), OK);

    memory = (char *)malloc(need.bytes + 128);
    workspace = memory + (64 - (uintptr_t)memory % 64);
    memset(memory, 0xff, need.bytes + 128);
    executor.run = greedy_callback;
    executor.context = NULL;
#define OPEN(object, bytes, of, under, space, space_bytes, by, to) \
    lowrank_encoder_open(object, bytes, of, under, space, space_bytes, by, to, &error)
#define BYTES LOWRANK_ENCODER_BYTES
    EXPECT(OPEN(NULL, BYTES, base, &limits, workspace, need.bytes, NULL, &encoder), ERROR_NULL_POINTER);
    EXPECT(OPEN(encoder_memory, 100, base, &limits, workspace, need.bytes, NULL, &encoder), ERROR_OBJECT_TOO_SMALL);
    EXPECT(OPEN(encoder_memory, BYTES, NULL, &limits, workspace, need.bytes, NULL, &encoder), ERROR_NULL_POINTER);
    EXPECT(OPEN(encoder_memory, BYTES, (lowrank_base *)(void *)set, &limits, workspace, need.bytes, NULL, &encoder), ERROR_NOT_AN_OBJECT);
    EXPECT(OPEN(encoder_memory, BYTES, decoder, &limits, workspace, need.bytes, NULL, &encoder), ERROR_WRONG_ROOT);
    EXPECT(OPEN(encoder_memory, BYTES, base, NULL, workspace, need.bytes, NULL, &encoder), ERROR_NULL_POINTER);
    EXPECT(OPEN(encoder_memory, BYTES, base, &bad, workspace, need.bytes, NULL, &encoder), ERROR_LIMIT);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, NULL, need.bytes, NULL, &encoder), ERROR_NULL_POINTER);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, NULL, 0, NULL, &encoder), ERROR_WORKSPACE_TOO_SMALL);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace, need.bytes - 1, NULL, &encoder), ERROR_WORKSPACE_TOO_SMALL);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace + 1, need.bytes, NULL, &encoder), ERROR_MISALIGNED);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace, ENDLESS, NULL, &encoder), ERROR_TOO_LONG);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, encoder_memory, 64, NULL, &encoder), ERROR_OVERLAP);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, (void *)(uintptr_t)archives[0], need.bytes, NULL, &encoder), ERROR_OVERLAP);
    EXPECT(OPEN((void *)(uintptr_t)archives[0], BYTES, base, &limits, workspace, need.bytes, NULL, &encoder), ERROR_OVERLAP);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace, need.bytes, ODD(lowrank_executor, garbage), &encoder),
           ERROR_MISALIGNED_POINTER);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace, need.bytes, &executor, NULL), ERROR_NULL_POINTER);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace, need.bytes, &executor, (lowrank_encoder **)(void *)workspace),
           ERROR_OVERLAP);
    EXPECT(lowrank_session_open(session_memory, sizeof session_memory, base, &session_limits, workspace, need.bytes, NULL, &session,
                                &error),
           ERROR_WRONG_ROOT);
    EXPECT(OPEN(encoder_memory, BYTES, base, &limits, workspace, need.bytes, &executor, &encoder), OK);

    for (int i = 0; i < 40; i++) {
        choices[i].slot = 0;
        choices[i].weight = 1.0f;
        choices[i].rank = 0;
    }
    EXPECT(lowrank_encoder_classify(encoder, 0, logits, 4, &count, &label, &error), ERROR_CLASSIFIERS);
    EXPECT(lowrank_encoder_select(NULL, 0, set, choices, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_select(GARBAGE(lowrank_encoder), 0, set, choices, 1, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_encoder_select(encoder, 0, NULL, choices, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_select(encoder, 0, GARBAGE(lowrank_set), choices, 1, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_encoder_select(encoder, 0, set, NULL, 1, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_select(encoder, 0, set, choices, ENDLESS, &error), ERROR_TOO_LONG);
    EXPECT(lowrank_encoder_select(encoder, 0, set, choices, 40, &error), ERROR_TOO_MANY_CHOICES);
    EXPECT(lowrank_encoder_select(encoder, 0, set, choices, 3, &error), ERROR_TOO_MANY_ACTIVE);
    EXPECT(lowrank_encoder_select(encoder, 9, set, choices, 1, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_encoder_select(encoder, 0, set, (lowrank_choice *)(void *)workspace, 1, &error), ERROR_OVERLAP);
    choices[0].slot = 77;
    EXPECT(lowrank_encoder_select(encoder, 0, set, choices, 1, &error), ERROR_NO_SUCH_SLOT);
    choices[0].slot = 1;
    EXPECT(lowrank_encoder_select(encoder, 0, set, choices, 2, &error), OK);

    for (int i = 0; i < 64; i++) {
        tokens[i] = 5;
        types[i] = 0;
    }
#define ENCODE(tokens, types, count, sizes, texts) lowrank_encoder_encode(encoder, tokens, types, count, sizes, texts, &error)
    EXPECT(lowrank_encoder_encode(NULL, tokens, NULL, 10, sizes, 2, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_encode(GARBAGE(lowrank_encoder), tokens, NULL, 10, sizes, 2, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(ENCODE(NULL, NULL, 10, sizes, 2), ERROR_NULL_POINTER);
    EXPECT(ENCODE(tokens, NULL, 10, NULL, 2), ERROR_NULL_POINTER);
    EXPECT(ENCODE(ODD(uint32_t, garbage), NULL, 10, sizes, 2), ERROR_MISALIGNED_POINTER);
    EXPECT(ENCODE(tokens, ODD(uint32_t, garbage), 10, sizes, 2), ERROR_MISALIGNED_POINTER);
    EXPECT(ENCODE(tokens, NULL, (size_t)-1, sizes, 2), ERROR_TOO_LONG);
    EXPECT(ENCODE(tokens, NULL, 10, sizes, (size_t)-1), ERROR_TOO_LONG);
    EXPECT(ENCODE(tokens, NULL, 9, sizes, 2), ERROR_LENGTH);
    EXPECT(ENCODE(tokens, NULL, 18, sizes, 3), ERROR_LENGTH);
    EXPECT(ENCODE(tokens, NULL, 0, sizes, 0), ERROR_LENGTH);
    EXPECT(ENCODE((uint32_t *)(void *)workspace, NULL, 10, sizes, 2), ERROR_OVERLAP);
    EXPECT(ENCODE(tokens, (uint32_t *)(void *)workspace, 10, sizes, 2), ERROR_OVERLAP);
    EXPECT(ENCODE(tokens, NULL, 10, (size_t *)(void *)workspace, 2), ERROR_OVERLAP);
    CODE(lowrank_encoder_encode(encoder, tokens, NULL, 10, sizes, 2, (lowrank_error *)(void *)workspace), ERROR_OVERLAP);
    sizes[0] = 0;
    EXPECT(ENCODE(tokens, NULL, 6, sizes, 2), ERROR_LENGTH);
    sizes[0] = (size_t)-1;
    sizes[1] = 11;
    EXPECT(ENCODE(tokens, NULL, 10, sizes, 2), ERROR_LENGTH);
    sizes[0] = 33;
    EXPECT(ENCODE(tokens, NULL, 33, sizes, 1), ERROR_CONTEXT_FULL);
    sizes[0] = 30;
    EXPECT(ENCODE(tokens, NULL, 41, sizes, 2), ERROR_LENGTH);
    sizes[0] = 4;
    sizes[1] = 6;
    tokens[9] = 0xffffffff;
    EXPECT(ENCODE(tokens, NULL, 10, sizes, 2), ERROR_TOKEN);
    tokens[9] = 7;
    types[3] = 99;
    EXPECT(ENCODE(tokens, types, 10, sizes, 2), ERROR_TOKEN_TYPE);
    types[3] = 0;
    EXPECT(lowrank_encoder_embedding(encoder, 0, &values, &count, &error), ERROR_NOT_ENCODED);
    EXPECT(ENCODE(tokens, types, 10, sizes, 2), OK);
    TRUE(inner == LOWRANK_ERROR_BUSY);

    EXPECT(lowrank_encoder_embedding(NULL, 0, &values, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_embedding(encoder, 0, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_embedding(encoder, 0, &values, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_embedding(encoder, 0, &values, (size_t *)(void *)workspace, &error), ERROR_OVERLAP);
    EXPECT(lowrank_encoder_embedding(encoder, 0, (const float **)(void *)encoder, &count, &error), ERROR_OVERLAP);
    EXPECT(lowrank_encoder_embedding(encoder, 2, &values, &count, &error), ERROR_NOT_ENCODED);
    EXPECT(lowrank_encoder_embedding(encoder, 1, &values, &count, &error), OK);
    TRUE(count == 48);
    EXPECT(lowrank_encoder_pooled(NULL, 0, LOWRANK_POOLING_CLS, &values, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_pooled(encoder, 0, LOWRANK_POOLING_CLS, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_pooled(encoder, 0, LOWRANK_POOLING_CLS, &values, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_pooled(encoder, 0, 9, &values, &count, &error), ERROR_UNKNOWN_CONSTANT);
    EXPECT(lowrank_encoder_pooled(encoder, 7, LOWRANK_POOLING_MEAN, &values, &count, &error), ERROR_NOT_ENCODED);
    EXPECT(lowrank_encoder_pooled(encoder, 0, LOWRANK_POOLING_MEAN, &values, &count, &error), OK);
    EXPECT(lowrank_encoder_hidden(NULL, 0, &values, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_hidden(encoder, 0, NULL, &count, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_hidden(encoder, 0, &values, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_hidden(encoder, 9, &values, &count, &error), ERROR_NOT_ENCODED);
    EXPECT(lowrank_encoder_hidden(encoder, 1, &values, &count, &error), OK);
    TRUE(count == 6 * 48);

    /* Sequence 0 has two adapters with a classifier, sequence 1 none. */
    EXPECT(lowrank_encoder_classify(encoder, 0, logits, 4, &count, &label, &error), ERROR_CLASSIFIERS);
    EXPECT(lowrank_encoder_classify(encoder, 1, logits, 4, &count, &label, &error), ERROR_CLASSIFIERS);
    EXPECT(lowrank_encoder_label(encoder, 1, 0, &name, &bytes, &error), ERROR_CLASSIFIERS);
    EXPECT(lowrank_encoder_select(encoder, 0, set, choices, 1, &error), OK);
    EXPECT(lowrank_encoder_classify(encoder, 0, logits, 4, &count, &label, &error), ERROR_NOT_ENCODED);
    EXPECT(ENCODE(tokens, NULL, 10, sizes, 2), OK);
#define CLASSIFY(encoder, logits, capacity, count, label) lowrank_encoder_classify(encoder, 0, logits, capacity, count, label, &error)
    EXPECT(CLASSIFY(NULL, logits, 4, &count, &label), ERROR_NULL_POINTER);
    EXPECT(CLASSIFY(GARBAGE(lowrank_encoder), logits, 4, &count, &label), ERROR_NOT_AN_OBJECT);
    EXPECT(CLASSIFY(encoder, NULL, 4, &count, &label), ERROR_NULL_POINTER);
    EXPECT(CLASSIFY(encoder, logits, ENDLESS, &count, &label), ERROR_TOO_LONG);
    EXPECT(CLASSIFY(encoder, logits, 4, NULL, &label), ERROR_NULL_POINTER);
    EXPECT(CLASSIFY(encoder, logits, 4, &count, ODD(uint32_t, garbage)), ERROR_MISALIGNED_POINTER);
    EXPECT(CLASSIFY(encoder, logits, 4, &count, (uint32_t *)(void *)logits), ERROR_OVERLAP);
    EXPECT(CLASSIFY(encoder, (float *)(void *)workspace, 4, &count, &label), ERROR_OVERLAP);
    EXPECT(lowrank_encoder_classify(encoder, 5, logits, 4, &count, &label, &error), ERROR_NO_SUCH_SEQUENCE);
    count = 0;
    EXPECT(CLASSIFY(encoder, NULL, 0, &count, &label), ERROR_BUFFER_TOO_SMALL);
    TRUE(count == 2);
    EXPECT(CLASSIFY(encoder, logits, 4, &count, NULL), OK);
    EXPECT(CLASSIFY(encoder, logits, 2, &count, &label), OK);
    TRUE(label < 2 && logits[label] >= logits[1 - label]);
    EXPECT(lowrank_encoder_label(NULL, 0, 0, &name, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_label(encoder, 0, 0, NULL, &bytes, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_label(encoder, 0, 0, &name, NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_label(encoder, 0, 2, &name, &bytes, &error), ERROR_LENGTH);
    EXPECT(lowrank_encoder_label(encoder, 9, 0, &name, &bytes, &error), ERROR_NO_SUCH_SEQUENCE);
    EXPECT(lowrank_encoder_label(encoder, 0, 1, &name, &bytes, &error), OK);

    memcpy(copy, encoder, LOWRANK_ENCODER_BYTES);
    EXPECT(lowrank_encoder_hidden((lowrank_encoder *)(void *)copy, 0, &values, &count, &error), ERROR_NOT_AN_OBJECT);
    TRUE(lowrank_encoder_bytes() <= LOWRANK_ENCODER_BYTES);
    EXPECT(lowrank_encoder_close(NULL, &error), ERROR_NULL_POINTER);
    EXPECT(lowrank_encoder_close((lowrank_encoder *)(void *)copy, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(lowrank_encoder_close(encoder, &error), OK);
    EXPECT(lowrank_encoder_close(encoder, &error), ERROR_NOT_AN_OBJECT);
    EXPECT(ENCODE(tokens, NULL, 10, sizes, 2), ERROR_NOT_AN_OBJECT);
    free(memory);
}

static void hostile_text(void) {
    uint32_t tokens[64];
    size_t count, cut, bytes;
    char buffer[64];
    lowrank_message message;
    EXPECT(lowrank_text_open(text_memory, LOWRANK_TEXT_BYTES, base, &text, &error), OK);
#define TEXT(text, string, bytes, most, tokens, capacity, count, cut) \
    lowrank_tokenize_for_encoder(text, string, bytes, most, tokens, capacity, count, cut, &error)
    EXPECT(TEXT(NULL, "ab", 2, 0, tokens, 64, &count, &cut), ERROR_NULL_POINTER);
    EXPECT(TEXT(GARBAGE(lowrank_text), "ab", 2, 0, tokens, 64, &count, &cut), ERROR_NOT_AN_OBJECT);
    EXPECT(TEXT(text, NULL, 2, 0, tokens, 64, &count, &cut), ERROR_NULL_POINTER);
    EXPECT(TEXT(text, "ab", ENDLESS, 0, tokens, 64, &count, &cut), ERROR_TOO_LONG);
    EXPECT(TEXT(text, "a\xff", 2, 0, tokens, 64, &count, &cut), ERROR_NOT_UTF8);
    EXPECT(TEXT(text, "ab", 2, 0, NULL, 64, &count, &cut), ERROR_NULL_POINTER);
    EXPECT(TEXT(text, "ab", 2, 0, tokens, 64, NULL, &cut), ERROR_NULL_POINTER);
    EXPECT(TEXT(text, "ab", 2, 0, tokens, 64, &count, ODD(size_t, garbage)), ERROR_MISALIGNED_POINTER);
    EXPECT(TEXT(text, "ab", 2, 0, tokens, 64, &count, &count), ERROR_OVERLAP);
    EXPECT(TEXT(text, (char *)tokens, 2, 0, tokens, 64, &count, &cut), ERROR_OVERLAP);
    EXPECT(TEXT(text, "ab", 2, 2, tokens, 64, &count, &cut), ERROR_TEXT);
    EXPECT(TEXT(text, "abcdef", 6, 0, tokens, 1, &count, &cut), ERROR_BUFFER_TOO_SMALL);
    TRUE(count == 8 && cut == 0);
    EXPECT(TEXT(text, "abcdef", 6, 5, tokens, 64, &count, &cut), OK);
    TRUE(count == 5 && cut == 3 && tokens[0] == 256 && tokens[4] == 257);
    EXPECT(TEXT(text, "", 0, 0, tokens, 64, &count, NULL), OK);
    TRUE(count == 2);
    message.role = message.content = "user";
    message.role_bytes = message.content_bytes = 4;
    EXPECT(lowrank_render_chat(text, &message, 1, NULL, 0, 1, buffer, sizeof buffer, &bytes, &error), ERROR_TEXT);
    EXPECT(lowrank_text_close(text, &error), OK);
    EXPECT(TEXT(text, "ab", 2, 0, tokens, 64, &count, &cut), ERROR_NOT_AN_OBJECT);
}

int main(int count, char **arguments) {
    if (count != 4 || strlen(arguments[3]) > 500) {
        fprintf(stderr, "usage: hostile_encoder BERT_BASE TEXT_BASE PREFIX\n");
        return 2;
    }
    sprintf(data, "%s.tsv", arguments[3]);
    sprintf(output, "%s.lrk", arguments[3]);
    sprintf(checkpoint, "%s.checkpoint", arguments[3]);
    memset(garbage, 0x5a, sizeof garbage);
    memset(encoder_memory, 0xff, sizeof encoder_memory);
    for (int i = 0; i < 2; i++) {
        EXPECT(lowrank_file_open(file_memory[i], LOWRANK_FILE_BYTES, arguments[i + 1], &files[i], &error), OK);
        EXPECT(lowrank_file_archive(files[i], &archives[i], &lengths[i], &error), OK);
    }
    hostile_bases();
    hostile_archive();
    hostile_training();
    hostile_import(arguments[1]);
    hostile_sets();
    hostile_encoders();
    hostile_text();
    EXPECT(lowrank_set_close(set, &error), OK);
    EXPECT(lowrank_adapter_close(adapter, &error), OK);
    CODE(lowrank_adapter_label(adapter, 0, NULL, NULL, NULL), ERROR_NULL_POINTER);
    EXPECT(lowrank_base_close(base, &error), OK);
    EXPECT(lowrank_base_close(decoder, &error), OK);
    for (int i = 0; i < 3; i++) {
        EXPECT(lowrank_file_close(files[i], &error), OK);
    }
    printf("%d hostile calls, %d wrong answers\n", checks, failures);
    return failures == 0 ? 0 : 1;
}
