/* See task.h. */
#include "task.h"

/* Objects in static memory, with the sizes that the header promises to be enough. */
static uint64_t base_memory[LOWRANK_BASE_BYTES / 8];
static uint64_t adapter_memory[LOWRANK_ADAPTER_BYTES / 8];
static uint64_t set_memory[LOWRANK_SET_BYTES(1) / 8];
static uint64_t session_memory[LOWRANK_SESSION_BYTES / 8];
static uint64_t sampler_memory[LOWRANK_SAMPLER_BYTES / 8];

/* The prompt: the token "begin", then one per byte, which is the byte itself. */
static const char prompt[] = "Duck and boat:";
#define PROMPT_TOKENS (sizeof prompt)
#define BEGIN 256

static lowrank_code generate(lowrank_session *session, lowrank_sampler *sampler, uint32_t *out, lowrank_error *error) {
    uint32_t tokens[PROMPT_TOKENS];
    tokens[0] = BEGIN;
    for (size_t i = 1; i < PROMPT_TOKENS; i++) {
        tokens[i] = (uint32_t)(unsigned char)prompt[i - 1];
    }
    lowrank_code code = lowrank_session_prefill(session, 0, tokens, PROMPT_TOKENS, error);
    for (size_t i = 0; i < TASK_TOKENS && code == LOWRANK_OK; i++) {
        code = lowrank_session_sample(session, 0, sampler, &out[i], error);
        if (code == LOWRANK_OK) {
            lowrank_next next;
            next.sequence = 0;
            next.token = out[i];
            code = lowrank_session_step(session, &next, 1, error);
        }
    }
    return code;
}

/* Opens an adapter, swaps it into slot 0, chooses it. The adapter object is not needed after that; its archive is. */
static lowrank_code swap(task_archive archive, lowrank_set *set, uint64_t *generation, lowrank_session *session, lowrank_error *error) {
    lowrank_adapter *adapter;
    lowrank_choice choice = LOWRANK_CHOICE(0);
    lowrank_code code = lowrank_adapter_open(adapter_memory, sizeof adapter_memory, archive.start, archive.bytes, &adapter, error);
    if (code == LOWRANK_OK) {
        code = lowrank_set_replace(set, 0, *generation, adapter, generation, error);
    }
    if (code == LOWRANK_OK) {
        code = lowrank_session_reset(session, 0, error);
    }
    if (code == LOWRANK_OK) {
        code = lowrank_session_select(session, 0, set, &choice, 1, error);
    }
    if (adapter != NULL) {
        lowrank_adapter_close(adapter, NULL);
    }
    return code;
}

lowrank_code task_run(task_archive base_archive, const task_archive adapters[TASK_ROUNDS - 1], void *workspace, size_t workspace_bytes,
                      const lowrank_executor *executor, size_t threads, task_result *result, lowrank_error *error) {
    lowrank_base *base = NULL;
    lowrank_set *set = NULL;
    lowrank_session *session = NULL;
    lowrank_sampler *sampler = NULL;
    uint64_t generation = 0;
    lowrank_need need;
    lowrank_code code;

    lowrank_limits limits = lowrank_limits_default(128);
    limits.prefill_chunk = 8;
    limits.threads = threads;
    limits.max_active = 1;
    limits.max_total_rank = 8;

    code = lowrank_verify(base_archive.start, base_archive.bytes, error);
    for (size_t i = 0; i < TASK_ROUNDS - 1 && code == LOWRANK_OK; i++) {
        code = lowrank_verify(adapters[i].start, adapters[i].bytes, error);
    }
    if (code == LOWRANK_OK) {
        code = lowrank_base_open(base_memory, sizeof base_memory, base_archive.start, base_archive.bytes, &base, error);
    }
    if (code == LOWRANK_OK) {
        code = lowrank_session_need(base, &limits, &need, error);
    }
    if (code == LOWRANK_OK) {
        result->need = need.bytes;
        code = lowrank_set_open(set_memory, sizeof set_memory, base, 1, &set, error);
    }
    if (code == LOWRANK_OK) {
        code = lowrank_session_open(session_memory, sizeof session_memory, base, &limits, workspace, workspace_bytes, executor,
                                    &session, error);
    }
    if (code == LOWRANK_OK) {
        code = lowrank_sampler_open(sampler_memory, sizeof sampler_memory, NULL, &sampler, error);
    }
    for (size_t round = 0; round < TASK_ROUNDS && code == LOWRANK_OK; round++) {
        if (round > 0) {
            code = swap(adapters[round - 1], set, &generation, session, error);
        }
        if (code == LOWRANK_OK) {
            code = generate(session, sampler, result->tokens[round], error);
        }
    }
    if (sampler != NULL) {
        lowrank_sampler_close(sampler, NULL);
    }
    if (session != NULL) {
        lowrank_session_close(session, NULL);
    }
    if (set != NULL) {
        lowrank_set_close(set, NULL);
    }
    if (base != NULL) {
        lowrank_base_close(base, NULL);
    }
    return code;
}
