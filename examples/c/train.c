/*
 * Personalization in one process: prompts a base, lets a second thread train an adapter on what the user would rather have read, goes on
 * generating meanwhile, swaps the adapter in when it is there, and prompts again. The base is never opened twice.
 *
 *     train BASE PREFIX PROMPT REPLY        writes PREFIX.jsonl, PREFIX.lrk
 *
 * Ends with an error if the reply has not changed. Hosted; threads are POSIX's, so not for Windows as it is.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lowrank.h>

#define CONTEXT 64
#define MOST_TOKENS 24
#define STEPS 60

/* What the two threads share: the set (which serves one call at a time), and whether the teacher is done. */
typedef struct {
    const void *archive;
    size_t archive_bytes;
    char data[512], output[512];
    lowrank_set *set;
    pthread_mutex_t lock;
    int done, failed;
} shared;

static void complain(const char *what, const lowrank_error *error) {
    char sentence[300];
    lowrank_error_message(error, sentence, sizeof sentence);
    fprintf(stderr, "%s: %s\n", what, sentence);
}

/* Ends the program with a sentence if a call failed. */
static void check(lowrank_code code, const lowrank_error *error, const char *what) {
    if (code != LOWRANK_OK) {
        complain(what, error);
        exit(1);
    }
}

/* Every tenth step; 0 lets the run go on. */
static uint32_t watch(void *context, const lowrank_train_progress *progress) {
    double *first = (double *)context;
    if (progress->step == 1) {
        *first = progress->loss;
    }
    if (progress->step % 10 == 0) {
        fprintf(stderr, "learning: step %lu of %lu, loss %.3f\n", (unsigned long)progress->step, (unsigned long)progress->total,
                progress->loss);
    }
    return 0;
}

/* Trains, then publishes: opens what was trained and swaps it into slot 0. Its archive stays mapped as long as the program runs. */
static lowrank_code learn(shared *all, lowrank_error *error) {
    static uint64_t file_memory[LOWRANK_FILE_BYTES / 8], adapter_memory[LOWRANK_ADAPTER_BYTES / 8];
    lowrank_train_options options = lowrank_train_options_default();
    lowrank_train_report report;
    lowrank_file *file;
    lowrank_adapter *adapter;
    const void *archive;
    size_t bytes;
    uint64_t generation;
    double first = 0;
    lowrank_code code;

    options.data = all->data;
    options.output = all->output;
    options.name = "user";
    options.steps = STEPS;
    options.batch_size = 2;
    options.max_length = CONTEXT;
    options.learning_rate = 2e-2f;
    options.completions_only = 1;
    options.threads = 1;
    code = lowrank_train(all->archive, all->archive_bytes, &options, watch, &first, &report, error);
    if (code != LOWRANK_OK) {
        return code;
    }
    fprintf(stderr, "learnt %lu numbers in %lu steps, loss %.3f to %.3f\n", (unsigned long)report.trainable_parameters,
            (unsigned long)report.steps, first, report.loss);
    if (!(report.loss < first)) {
        fprintf(stderr, "FAIL: the loss has not fallen\n");
        exit(1);
    }
    if ((code = lowrank_file_open(file_memory, sizeof file_memory, all->output, &file, error)) != LOWRANK_OK ||
        (code = lowrank_file_archive(file, &archive, &bytes, error)) != LOWRANK_OK ||
        (code = lowrank_adapter_open(adapter_memory, sizeof adapter_memory, archive, bytes, &adapter, error)) != LOWRANK_OK) {
        return code;
    }
    /* Compare and swap: somebody else may have changed the slot since we looked. A set that is in use just now is tried again. */
    do {
        code = lowrank_set_get(all->set, 0, &generation, NULL, error);
        if (code == LOWRANK_OK) {
            code = lowrank_set_replace(all->set, 0, generation, adapter, NULL, error);
        }
    } while (code == LOWRANK_ERROR_BUSY || code == LOWRANK_ERROR_STALE_GENERATION);
    lowrank_adapter_close(adapter, NULL);
    return code;
}

static void *teacher(void *argument) {
    shared *all = (shared *)argument;
    lowrank_error error;
    lowrank_code code = learn(all, &error);
    if (code != LOWRANK_OK) {
        complain("training", &error);
    }
    pthread_mutex_lock(&all->lock);
    all->done = 1;
    all->failed = code != LOWRANK_OK;
    pthread_mutex_unlock(&all->lock);
    return NULL;
}

static int is_done(shared *all) {
    int done;
    pthread_mutex_lock(&all->lock);
    done = all->done;
    pthread_mutex_unlock(&all->lock);
    return done;
}

/* The reply to a prompt of tokens, with the adapters that sequence 0 has. */
static size_t reply(lowrank_session *session, lowrank_sampler *sampler, const lowrank_base *base, const uint32_t *prompt,
                    size_t prompt_tokens, uint32_t *tokens) {
    lowrank_error error;
    size_t count = 0;
    check(lowrank_session_prefill(session, 0, prompt, prompt_tokens, &error), &error, "prefill");
    while (count < MOST_TOKENS) {
        lowrank_next next;
        uint32_t stops;
        next.sequence = 0;
        check(lowrank_session_sample(session, 0, sampler, &next.token, &error), &error, "sample");
        check(lowrank_base_is_stop(base, next.token, &stops, &error), &error, "is_stop");
        if (stops) {
            break;
        }
        tokens[count++] = next.token;
        check(lowrank_session_step(session, &next, 1, &error), &error, "step");
    }
    return count;
}

static void print(const char *name, const lowrank_text *text, const uint32_t *tokens, size_t count) {
    char buffer[512];
    size_t bytes;
    lowrank_error error;
    check(lowrank_detokenize(text, tokens, count, 0, buffer, sizeof buffer, &bytes, &error), &error, "decode");
    printf("%s: %.*s\n", name, (int)bytes, buffer);
}

int main(int count, char **arguments) {
    static uint64_t file_memory[LOWRANK_FILE_BYTES / 8], base_memory[LOWRANK_BASE_BYTES / 8], set_memory[LOWRANK_SET_BYTES(1) / 8];
    static uint64_t session_memory[LOWRANK_SESSION_BYTES / 8], sampler_memory[LOWRANK_SAMPLER_BYTES / 8];
    static uint64_t text_memory[LOWRANK_TEXT_BYTES / 8];
    static shared all;
    uint32_t prompt[CONTEXT / 2], before[MOST_TOKENS], meanwhile[MOST_TOKENS], after[MOST_TOKENS];
    size_t prompt_tokens, before_tokens, after_tokens, served = 0;
    lowrank_limits limits = lowrank_limits_default(CONTEXT);
    lowrank_choice choice = LOWRANK_CHOICE(0);
    lowrank_need need;
    lowrank_file *file;
    lowrank_base *base;
    lowrank_session *session;
    lowrank_sampler *sampler;
    lowrank_text *text;
    lowrank_error error;
    pthread_t thread;
    char *memory, *workspace;
    FILE *data;

    if (count != 5 || strlen(arguments[2]) > 500) {
        fprintf(stderr, "usage: train BASE PREFIX PROMPT REPLY\n");
        return 2;
    }
    check(lowrank_file_open(file_memory, sizeof file_memory, arguments[1], &file, &error), &error, arguments[1]);
    check(lowrank_file_archive(file, &all.archive, &all.archive_bytes, &error), &error, arguments[1]);
    check(lowrank_base_open(base_memory, sizeof base_memory, all.archive, all.archive_bytes, &base, &error), &error, arguments[1]);
    check(lowrank_set_open(set_memory, sizeof set_memory, base, 1, &all.set, &error), &error, "set");
    check(lowrank_text_open(text_memory, sizeof text_memory, base, &text, &error), &error, "text");
    check(lowrank_sampler_open(sampler_memory, sizeof sampler_memory, NULL, &sampler, &error), &error, "sampler");
    check(lowrank_session_need(base, &limits, &need, &error), &error, "need");
    memory = (char *)malloc(need.bytes + LOWRANK_MEMORY_ALIGN);
    if (memory == NULL) {
        return 1;
    }
    workspace = memory + (LOWRANK_MEMORY_ALIGN - (uintptr_t)memory % LOWRANK_MEMORY_ALIGN);
    check(lowrank_session_open(session_memory, sizeof session_memory, base, &limits, workspace, need.bytes, NULL, &session, &error), &error,
          "session");
    check(lowrank_tokenize(text, arguments[3], strlen(arguments[3]), LOWRANK_PROMPT, prompt, CONTEXT / 2, &prompt_tokens, &error), &error,
          "prompt");

    before_tokens = reply(session, sampler, base, prompt, prompt_tokens, before);
    print("before", text, before, before_tokens);

    /* What the user would rather have read. Prompt and reply are letters here; a real program escapes them for JSON. */
    sprintf(all.data, "%s.jsonl", arguments[2]);
    sprintf(all.output, "%s.lrk", arguments[2]);
    data = fopen(all.data, "w");
    if (data == NULL) {
        fprintf(stderr, "%s cannot be written\n", all.data);
        return 1;
    }
    for (int i = 0; i < 2; i++) {
        fprintf(data, "{\"prompt\": \"%s\", \"completion\": \"%s\"}\n", arguments[3], arguments[4]);
    }
    fclose(data);

    pthread_mutex_init(&all.lock, NULL);
    if (pthread_create(&thread, NULL, teacher, &all) != 0) {
        fprintf(stderr, "no thread to train on\n");
        return 1;
    }
    /* The server does not wait for the teacher, and its replies are the base's until it chooses the new adapter. */
    do {
        check(lowrank_session_reset(session, 0, &error), &error, "reset");
        after_tokens = reply(session, sampler, base, prompt, prompt_tokens, meanwhile);
        if (after_tokens != before_tokens || memcmp(before, meanwhile, before_tokens * sizeof before[0]) != 0) {
            fprintf(stderr, "FAIL: training touched a running session\n");
            return 1;
        }
        served++;
    } while (!is_done(&all));
    pthread_join(thread, NULL);
    pthread_mutex_destroy(&all.lock);
    if (all.failed) {
        return 1;
    }
    fprintf(stderr, "served meanwhile: %lu replies\n", (unsigned long)served);

    check(lowrank_session_reset(session, 0, &error), &error, "reset");
    check(lowrank_session_select(session, 0, all.set, &choice, 1, &error), &error, "select");
    after_tokens = reply(session, sampler, base, prompt, prompt_tokens, after);
    print("after", text, after, after_tokens);
    if (after_tokens == before_tokens && memcmp(before, after, after_tokens * sizeof after[0]) == 0) {
        fprintf(stderr, "FAIL: the reply has not changed\n");
        return 1;
    }
    lowrank_session_close(session, NULL);
    lowrank_sampler_close(sampler, NULL);
    lowrank_text_close(text, NULL);
    lowrank_set_close(all.set, NULL);
    lowrank_base_close(base, NULL);
    lowrank_file_close(file, NULL);
    free(memory);
    return 0;
}
