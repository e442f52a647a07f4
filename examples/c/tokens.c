/*
 * Hosted: maps the tiny archives, runs the task three times (alone, on the library's threads, through a callback of its own that
 * does everything wrong it can), and prints the tokens of each round as ../tiny prints them. The Makefile compares.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "task.h"

static int failed(const char *what, const lowrank_error *error) {
    char sentence[256];
    lowrank_error_message(error, sentence, sizeof sentence);
    fprintf(stderr, "%s: %s (code %lu: %s)\n", what, sentence, (unsigned long)error->code, lowrank_code_text(error->code));
    return 1;
}

/* An executor that runs fewer tasks than it was told, and one of them twice: the library has to do the rest. */
static void careless(void *context, size_t tasks, lowrank_task task, void *argument) {
    size_t *calls = (size_t *)context;
    *calls += 1;
    if (tasks > 0) {
        task(argument);
        task(argument);
    }
}

int main(int count, char **arguments) {
    static uint64_t file_memory[TASK_ROUNDS][LOWRANK_FILE_BYTES / 8];
    static uint64_t threads_memory[LOWRANK_THREADS_BYTES / 8];
    static task_result results[3];
    lowrank_file *files[TASK_ROUNDS];
    task_archive archives[TASK_ROUNDS];
    lowrank_threads *threads;
    lowrank_executor executors[3];
    lowrank_error error;
    size_t counts[3] = {1, 0, 3};
    size_t calls = 0;
    char *memory;
    const size_t workspace_bytes = 1 << 20;

    if (count != TASK_ROUNDS + 1) {
        fprintf(stderr, "usage: tokens BASE ADAPTER ADAPTER\n");
        return 2;
    }
    for (int i = 0; i < TASK_ROUNDS; i++) {
        if (lowrank_file_open(file_memory[i], sizeof file_memory[i], arguments[i + 1], &files[i], &error) != LOWRANK_OK ||
            lowrank_file_archive(files[i], &archives[i].start, &archives[i].bytes, &error) != LOWRANK_OK) {
            return failed(arguments[i + 1], &error);
        }
    }
    if (lowrank_threads_open(threads_memory, sizeof threads_memory, 2, &threads, &error) != LOWRANK_OK ||
        lowrank_threads_executor(threads, &executors[1], &counts[1], &error) != LOWRANK_OK) {
        return failed("threads", &error);
    }
    executors[2].run = careless;
    executors[2].context = &calls;

    /* C99 has no aligned allocation: take what is missing to a boundary more. */
    memory = (char *)malloc(workspace_bytes + LOWRANK_MEMORY_ALIGN);
    if (memory == NULL) {
        return 1;
    }
    for (int i = 0; i < 3; i++) {
        char *workspace = memory + (LOWRANK_MEMORY_ALIGN - (uintptr_t)memory % LOWRANK_MEMORY_ALIGN);
        memset(memory, 0xff, workspace_bytes + LOWRANK_MEMORY_ALIGN);
        if (task_run(archives[0], &archives[1], workspace, workspace_bytes, i == 0 ? NULL : &executors[i], counts[i], &results[i],
                     &error) != LOWRANK_OK) {
            return failed("task", &error);
        }
        if (memcmp(results[0].tokens, results[i].tokens, sizeof results[0].tokens) != 0) {
            fprintf(stderr, "FAIL: executor %d gives other tokens\n", i);
            return 1;
        }
    }
    if (calls == 0) {
        fprintf(stderr, "FAIL: the callback was never used\n");
        return 1;
    }
    free(memory);
    lowrank_threads_close(threads, NULL);
    for (int i = 0; i < TASK_ROUNDS; i++) {
        lowrank_file_close(files[i], NULL);
        printf("[");
        for (int j = 0; j < TASK_TOKENS; j++) {
            printf("%s%lu", j > 0 ? ", " : "", (unsigned long)results[0].tokens[i][j]);
        }
        printf("]\n");
    }
    return 0;
}
