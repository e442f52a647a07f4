/*
 * What the hosted and the freestanding program do alike: 64 tokens with a base, then, after a swap, with each of two adapters.
 * The same as ../tiny/task.rs, so the tokens can be compared. No heap, no printf, valid C99 and C++17. Not a program by itself.
 */
#ifndef TASK_H
#define TASK_H

#include <lowrank.h>

/* Tokens of a round; the base alone, then two adapters. */
#define TASK_TOKENS 64
#define TASK_ROUNDS 3

/* An archive in memory, at a multiple of LOWRANK_MEMORY_ALIGN. */
typedef struct {
    const void *start;
    size_t bytes;
} task_archive;

typedef struct {
    uint32_t tokens[TASK_ROUNDS][TASK_TOKENS];
    /* What the session needed; the caller may know it beforehand. */
    size_t need;
} task_result;

/*
 * Returns LOWRANK_OK or the first code, with *error filled. `executor` may be null; `threads` parts of work otherwise.
 */
lowrank_code task_run(task_archive base, const task_archive adapters[TASK_ROUNDS - 1], void *workspace, size_t workspace_bytes,
                      const lowrank_executor *executor, size_t threads, task_result *result, lowrank_error *error);

#endif
