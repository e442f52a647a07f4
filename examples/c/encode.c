/*
 * Encoders: embeds texts, trains a classifier as an adapter on two labels, attaches it, and classifies the texts.
 *
 *     encode BASE PREFIX TEXT...        writes PREFIX.f32 (the vectors), PREFIX.tsv, PREFIX.lrk
 *
 * A text is labelled "long" in the training data if it has a space, else "short"; ends with an error if the classifier has not
 * learnt that. Hosted for the tokenizer and the training; embedding and classifying need neither, nor a heap.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lowrank.h>

#define CONTEXT 64
#define MOST_TEXTS 16

static lowrank_error error;

/* Ends the program with a sentence if a call failed. */
static void check(lowrank_code code, const char *what) {
    if (code != LOWRANK_OK) {
        char sentence[300];
        lowrank_error_message(&error, sentence, sizeof sentence);
        fprintf(stderr, "%s: %s\n", what, sentence);
        exit(1);
    }
}

static const char *label_of(const char *text) {
    return strchr(text, ' ') != NULL ? "long" : "short";
}

/* Files that the program makes: PREFIX with a suffix. */
static char data[600], vectors[600], output[600];

static void name_files(const char *prefix) {
    if (strlen(prefix) > 500) {
        fprintf(stderr, "%s: too long\n", prefix);
        exit(1);
    }
    sprintf(data, "%s.tsv", prefix);
    sprintf(vectors, "%s.f32", prefix);
    sprintf(output, "%s.lrk", prefix);
}

static FILE *create(const char *path) {
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        fprintf(stderr, "%s cannot be written\n", path);
        exit(1);
    }
    return file;
}

/* Trains the classifier; its labels are those in the data. */
static void train(const void *archive, size_t bytes, char **texts, size_t count) {
    lowrank_train_options options = lowrank_train_options_default();
    lowrank_train_report report;
    FILE *file = create(data);
    for (size_t i = 0; i < count; i++) {
        fprintf(file, "%s\t%s\n", texts[i], label_of(texts[i]));
    }
    fclose(file);
    options.task = LOWRANK_TASK_CLASSIFY;
    options.data = data;
    options.validation = data;
    options.output = output;
    options.epochs = 30;
    options.batch_size = 4;
    options.learning_rate = 5e-3f;
    options.max_length = CONTEXT;
    options.threads = 1;
    check(lowrank_train(archive, bytes, &options, NULL, NULL, &report, &error), "train");
    fprintf(stderr, "trained: %lu steps, loss %.3f, accuracy %.3f\n", (unsigned long)report.steps, report.loss,
            report.validation_accuracy);
}

int main(int count, char **arguments) {
    static uint64_t file_memory[2][LOWRANK_FILE_BYTES / 8], base_memory[LOWRANK_BASE_BYTES / 8];
    static uint64_t adapter_memory[LOWRANK_ADAPTER_BYTES / 8], set_memory[LOWRANK_SET_BYTES(1) / 8];
    static uint64_t encoder_memory[LOWRANK_ENCODER_BYTES / 8], text_memory[LOWRANK_TEXT_BYTES / 8];
    static uint32_t tokens[MOST_TEXTS * CONTEXT];
    size_t lengths[MOST_TEXTS], texts, used = 0, bytes, cut, wrong = 0;
    char **strings = arguments + 3;
    const void *archive, *trained;
    lowrank_file *files[2];
    lowrank_base *base;
    lowrank_base_info info;
    lowrank_adapter *adapter;
    lowrank_set *set;
    lowrank_encoder *encoder;
    lowrank_encoder_limits limits;
    lowrank_need need;
    lowrank_text *text;
    lowrank_choice choice = LOWRANK_CHOICE(0);
    char *memory, *workspace;
    FILE *file;

    if (count < 4 || count > 3 + MOST_TEXTS) {
        fprintf(stderr, "usage: encode BASE PREFIX TEXT... (up to %d)\n", MOST_TEXTS);
        return 2;
    }
    texts = (size_t)count - 3;
    name_files(arguments[2]);
    check(lowrank_file_open(file_memory[0], sizeof file_memory[0], arguments[1], &files[0], &error), arguments[1]);
    check(lowrank_file_archive(files[0], &archive, &bytes, &error), arguments[1]);
    check(lowrank_bert_open(base_memory, sizeof base_memory, archive, bytes, &base, &error), arguments[1]);
    check(lowrank_base_get_info(base, &info, &error), "info");
    check(lowrank_set_open(set_memory, sizeof set_memory, base, 1, &set, &error), "set");
    check(lowrank_text_open(text_memory, sizeof text_memory, base, &text, &error), "text");

    /* The texts one behind the other, each with the special tokens around it. */
    for (size_t i = 0; i < texts; i++) {
        check(lowrank_tokenize_for_encoder(text, strings[i], strlen(strings[i]), CONTEXT, tokens + used, MOST_TEXTS * CONTEXT - used, &lengths[i],
                                  &cut, &error),
              strings[i]);
        if (cut > 0) {
            fprintf(stderr, "%s: %lu tokens were cut\n", strings[i], (unsigned long)cut);
        }
        used += lengths[i];
    }

    limits = lowrank_encoder_limits_default(CONTEXT);
    limits.batch = texts;
    limits.tokens = used;
    check(lowrank_encoder_need(base, &limits, &need, &error), "need");
    memory = (char *)malloc(need.bytes + LOWRANK_MEMORY_ALIGN);
    if (memory == NULL) {
        fprintf(stderr, "no memory for a workspace of %lu bytes\n", (unsigned long)need.bytes);
        return 1;
    }
    memset(memory, 0xff, need.bytes + LOWRANK_MEMORY_ALIGN);
    workspace = memory + (LOWRANK_MEMORY_ALIGN - (uintptr_t)memory % LOWRANK_MEMORY_ALIGN);
    check(lowrank_encoder_open(encoder_memory, sizeof encoder_memory, base, &limits, workspace, need.bytes, NULL, &encoder, &error),
          "encoder");

    /* Vectors of the base. They lie in the workspace until the next call. */
    check(lowrank_encoder_encode(encoder, tokens, NULL, used, lengths, texts, &error), "encode");
    file = create(vectors);
    for (size_t i = 0; i < texts; i++) {
        const float *vector;
        size_t dim;
        check(lowrank_encoder_embedding(encoder, i, &vector, &dim, &error), "embedding");
        if (dim != info.dim || fwrite(vector, sizeof *vector, dim, file) != dim) {
            fprintf(stderr, "FAIL: %s: not written\n", vectors);
            return 1;
        }
    }
    fclose(file);

    /* The classifier is an adapter like any other. */
    train(archive, bytes, strings, texts);
    check(lowrank_file_open(file_memory[1], sizeof file_memory[1], output, &files[1], &error), output);
    check(lowrank_file_archive(files[1], &trained, &bytes, &error), output);
    check(lowrank_adapter_open(adapter_memory, sizeof adapter_memory, trained, bytes, &adapter, &error), output);
    check(lowrank_set_replace(set, 0, 0, adapter, NULL, &error), "replace");
    for (size_t i = 0; i < texts; i++) {
        check(lowrank_encoder_select(encoder, i, set, &choice, 1, &error), "select");
    }
    check(lowrank_encoder_encode(encoder, tokens, NULL, used, lengths, texts, &error), "encode");
    for (size_t i = 0; i < texts; i++) {
        float logits[8];
        size_t labels, name_bytes;
        uint32_t label;
        const char *name, *expected = label_of(strings[i]);
        check(lowrank_encoder_classify(encoder, i, logits, 8, &labels, &label, &error), "classify");
        check(lowrank_encoder_label(encoder, i, label, &name, &name_bytes, &error), "label");
        printf("%.*s: %s\n", (int)name_bytes, name, strings[i]);
        wrong += labels != 2 || name_bytes != strlen(expected) || memcmp(name, expected, name_bytes) != 0;
    }
    if (wrong > 0) {
        fprintf(stderr, "FAIL: %lu of %lu texts have another label than they were trained with\n", (unsigned long)wrong,
                (unsigned long)texts);
    }

    lowrank_encoder_close(encoder, NULL);
    lowrank_text_close(text, NULL);
    lowrank_set_close(set, NULL);
    lowrank_adapter_close(adapter, NULL);
    lowrank_base_close(base, NULL);
    lowrank_file_close(files[1], NULL);
    lowrank_file_close(files[0], NULL);
    free(memory);
    return wrong == 0 ? 0 : 1;
}
