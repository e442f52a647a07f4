/*
 * A whole small program: opens a base and two adapters, generates with each, trains a third one on examples in memory, and swaps it in
 * while a sequence goes on, which keeps what it chose.
 *
 *     assistant BASE ADAPTER OTHER_ADAPTER PROMPT REPLY
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lowrank.h>

#define CONTEXT 64

static lowrank_error error;

/* Ends the program with a sentence if a call failed. */
static void check(lowrank_code code) {
    if (code != LOWRANK_OK) {
        char sentence[256];
        lowrank_error_message(&error, sentence, sizeof sentence);
        fprintf(stderr, "assistant: %s\n", sentence);
        exit(1);
    }
}

static uint32_t print(void *context, const char *piece, size_t bytes) {
    (void)context;
    return fwrite(piece, 1, bytes, stdout) == bytes ? 0 : 1;
}

/* Opens the adapter in a file object over memory of the caller. */
static lowrank_adapter *adapter_of(const lowrank_file *file, void *memory) {
    lowrank_adapter *adapter;
    const void *archive;
    size_t bytes;
    check(lowrank_file_archive(file, &archive, &bytes, &error));
    check(lowrank_adapter_open(memory, LOWRANK_ADAPTER_BYTES, archive, bytes, &adapter, &error));
    return adapter;
}

int main(int count, char **arguments) {
    static uint64_t file_memory[4][LOWRANK_FILE_BYTES / 8], base_memory[LOWRANK_BASE_BYTES / 8], set_memory[LOWRANK_SET_BYTES(2) / 8];
    static uint64_t adapter_memory[3][LOWRANK_ADAPTER_BYTES / 8], session_memory[LOWRANK_SESSION_BYTES / 8];
    static uint64_t text_memory[LOWRANK_TEXT_BYTES / 8], sampler_memory[LOWRANK_SAMPLER_BYTES / 8];
    lowrank_file *files[4];
    lowrank_base *base;
    lowrank_set *set;
    lowrank_session *session;
    lowrank_text *text;
    lowrank_sampler *sampler;
    lowrank_limits limits = lowrank_limits_default(CONTEXT);
    lowrank_train_options options = lowrank_train_options_default();
    lowrank_example examples[2];
    lowrank_need need;
    lowrank_reply reply;
    const void *archive;
    size_t archive_bytes;
    uint64_t generation;
    char *memory;
    if (count != 6) {
        fprintf(stderr, "usage: assistant BASE ADAPTER OTHER_ADAPTER PROMPT REPLY\n");
        return 2;
    }
    for (int i = 0; i < 3; i++) {
        check(lowrank_file_open(file_memory[i], LOWRANK_FILE_BYTES, arguments[i + 1], &files[i], &error));
    }
    check(lowrank_file_archive(files[0], &archive, &archive_bytes, &error));
    check(lowrank_base_open(base_memory, sizeof base_memory, archive, archive_bytes, &base, &error));
    check(lowrank_set_open(set_memory, sizeof set_memory, base, 2, &set, &error));
    check(lowrank_set_attach(set, 0, adapter_of(files[1], adapter_memory[0]), &generation, &error));
    check(lowrank_set_attach(set, 1, adapter_of(files[2], adapter_memory[1]), NULL, &error));
    limits.batch = 2; /* one sequence for each adapter */
    check(lowrank_session_need(base, &limits, &need, &error));
    memory = (char *)malloc(need.bytes + LOWRANK_MEMORY_ALIGN);
    if (memory == NULL) {
        return 1;
    }
    check(lowrank_session_open(session_memory, sizeof session_memory, base, &limits,
                               memory + (LOWRANK_MEMORY_ALIGN - (uintptr_t)memory % LOWRANK_MEMORY_ALIGN), need.bytes, NULL, &session,
                               &error));
    check(lowrank_text_open(text_memory, sizeof text_memory, base, &text, &error));
    check(lowrank_sampler_open(sampler_memory, sizeof sampler_memory, NULL, &sampler, &error));

    for (uint32_t slot = 0; slot < 2; slot++) {
        lowrank_choice choice = LOWRANK_CHOICE(slot);
        check(lowrank_session_select(session, slot, set, &choice, 1, &error));
        printf("adapter %u: ", slot);
        check(lowrank_generate(session, slot, text, sampler, arguments[4], strlen(arguments[4]), 12, print, NULL, NULL, &error));
        printf("\n");
    }

    /* What the user would rather have read; twice, so that a batch has two. */
    memset(examples, 0, sizeof examples);
    examples[0].text = examples[1].text = arguments[4];
    examples[0].completion = examples[1].completion = arguments[5];
    options.examples = examples;
    options.example_count = 2;
    options.steps = 60;
    options.learning_rate = 2e-2f;
    options.completions_only = 1;
    options.threads = 1;
    check(lowrank_train_in_memory(file_memory[3], LOWRANK_FILE_BYTES, archive, archive_bytes, &options, NULL, NULL, NULL, &files[3],
                                  &error));
    check(lowrank_set_replace(set, 0, generation, adapter_of(files[3], adapter_memory[2]), NULL, &error));

    printf("going on:  "); /* under the adapter that it chose */
    check(lowrank_generate(session, 0, text, sampler, " ", 1, 12, print, NULL, &reply, &error));
    check(lowrank_session_reset(session, 0, &error));
    {
        lowrank_choice choice = LOWRANK_CHOICE(0);
        check(lowrank_session_select(session, 0, set, &choice, 1, &error));
    }
    printf("\nlearnt:    ");
    check(lowrank_generate(session, 0, text, sampler, arguments[4], strlen(arguments[4]), 12, print, NULL, &reply, &error));
    printf("\n");

    lowrank_sampler_close(sampler, NULL);
    lowrank_text_close(text, NULL);
    lowrank_session_close(session, NULL);
    lowrank_set_close(set, NULL);
    lowrank_base_close(base, NULL);
    for (int i = 0; i < 4; i++) {
        lowrank_file_close(files[i], NULL);
    }
    free(memory);
    return 0;
}
