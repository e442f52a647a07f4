/*
 * The page to read first: opens a base and two adapters from files, prompts, prints the reply as it comes, and swaps an adapter while a
 * sequence is being generated.
 *
 *     generate BASE ADAPTER OTHER_ADAPTER PROMPT [TOKENS]
 *
 * Prints the reply of the base, of each adapter, and shows that the swap did not touch the running sequence. Hosted: it needs a library
 * built with std. Objects are static here; any memory at a multiple of LOWRANK_OBJECT_ALIGN will do.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lowrank.h>

#define CONTEXT 64
#define MOST_TOKENS 256

static lowrank_error error;

/* Ends the program with a sentence if a call failed. */
static void check(lowrank_code code, const char *what) {
    if (code != LOWRANK_OK) {
        char sentence[256];
        lowrank_error_message(&error, sentence, sizeof sentence);
        fprintf(stderr, "%s: %s\n", what, sentence);
        exit(1);
    }
}

/* Continues one sequence by up to `most` tokens, printing if `stream` is given. Returns how many there were. */
static size_t reply(lowrank_session *session, size_t sequence, lowrank_sampler *sampler, const lowrank_base *base, lowrank_stream *stream,
                    uint32_t *tokens, size_t most) {
    size_t count = 0;
    while (count < most) {
        uint32_t token, stops;
        size_t room;
        lowrank_next next;
        check(lowrank_session_sample(session, sequence, sampler, &token, &error), "sample");
        check(lowrank_base_is_stop(base, token, &stops, &error), "is_stop");
        if (stops) {
            break;
        }
        tokens[count++] = token;
        if (stream != NULL) {
            char text[256];
            size_t bytes;
            check(lowrank_stream_push(stream, token, text, sizeof text, &bytes, &error), "decode");
            fwrite(text, 1, bytes, stdout);
        }
        check(lowrank_session_room(session, sequence, &room, &error), "room");
        if (room == 0) {
            break;
        }
        next.sequence = sequence;
        next.token = token;
        check(lowrank_session_step(session, &next, 1, &error), "step");
    }
    if (stream != NULL) {
        char text[256];
        size_t bytes;
        check(lowrank_stream_finish(stream, text, sizeof text, &bytes, &error), "decode");
        fwrite(text, 1, bytes, stdout);
        printf("\n");
    }
    return count;
}

int main(int count, char **arguments) {
    static uint64_t file_memory[3][LOWRANK_FILE_BYTES / 8], base_memory[LOWRANK_BASE_BYTES / 8];
    static uint64_t adapter_memory[2][LOWRANK_ADAPTER_BYTES / 8], set_memory[LOWRANK_SET_BYTES(1) / 8];
    static uint64_t session_memory[LOWRANK_SESSION_BYTES / 8], sampler_memory[LOWRANK_SAMPLER_BYTES / 8];
    static uint64_t text_memory[LOWRANK_TEXT_BYTES / 8], stream_memory[LOWRANK_STREAM_BYTES / 8];
    static uint32_t prompt[MOST_TOKENS], tokens[3][MOST_TOKENS], again[MOST_TOKENS];
    lowrank_file *files[3];
    lowrank_base *base;
    lowrank_adapter *adapters[2];
    lowrank_set *set;
    lowrank_session *session;
    lowrank_sampler *sampler;
    lowrank_text *text;
    lowrank_stream *stream;
    lowrank_limits limits;
    lowrank_need need;
    lowrank_choice choice = LOWRANK_CHOICE(0);
    uint64_t generation = 0;
    size_t prompt_tokens, replies[3], half, most = 32;
    char *memory, *workspace;

    if (count < 5) {
        fprintf(stderr, "usage: generate BASE ADAPTER OTHER_ADAPTER PROMPT [TOKENS]\n");
        return 2;
    }
    if (count > 5) {
        most = (size_t)strtoul(arguments[5], NULL, 10);
    }
    if (most > MOST_TOKENS) {
        most = MOST_TOKENS;
    }

    /* Archives are mapped and used where they lie. */
    for (int i = 0; i < 3; i++) {
        const void *archive;
        size_t bytes;
        check(lowrank_file_open(file_memory[i], sizeof file_memory[i], arguments[i + 1], &files[i], &error), arguments[i + 1]);
        check(lowrank_file_archive(files[i], &archive, &bytes, &error), arguments[i + 1]);
        if (i == 0) {
            check(lowrank_base_open(base_memory, sizeof base_memory, archive, bytes, &base, &error), arguments[1]);
        } else {
            check(lowrank_adapter_open(adapter_memory[i - 1], sizeof adapter_memory[0], archive, bytes, &adapters[i - 1], &error),
                  arguments[i + 1]);
        }
    }

    /* What a session takes is known before it exists. Two sequences side by side; on a card if the library knows one. */
    limits = lowrank_limits_default(CONTEXT);
    limits.batch = 2;
    if (getenv("LOWRANK_CARD") != NULL) {
        limits.device = LOWRANK_DEVICE_CUDA;
        limits.card = (uint32_t)strtoul(getenv("LOWRANK_CARD"), NULL, 10);
    }
    check(lowrank_session_need(base, &limits, &need, &error), "need");
    memory = (char *)malloc(need.bytes + LOWRANK_MEMORY_ALIGN);
    if (memory == NULL) {
        fprintf(stderr, "no memory for a workspace of %lu bytes\n", (unsigned long)need.bytes);
        return 1;
    }
    workspace = memory + (LOWRANK_MEMORY_ALIGN - (uintptr_t)memory % LOWRANK_MEMORY_ALIGN);
    check(lowrank_session_open(session_memory, sizeof session_memory, base, &limits, workspace, need.bytes, NULL, &session, &error),
          "session");
    check(lowrank_set_open(set_memory, sizeof set_memory, base, 1, &set, &error), "set");
    check(lowrank_sampler_open(sampler_memory, sizeof sampler_memory, NULL, &sampler, &error), "sampler");
    check(lowrank_text_open(text_memory, sizeof text_memory, base, &text, &error), "text");
    check(lowrank_stream_open(stream_memory, sizeof stream_memory, text, &stream, &error), "stream");
    check(lowrank_tokenize(text, arguments[4], strlen(arguments[4]), LOWRANK_PROMPT, prompt, MOST_TOKENS, &prompt_tokens, &error),
          "prompt");

    /* The base, then each adapter: a swap writes one slot. */
    for (int i = 0; i < 3; i++) {
        if (i > 0) {
            check(lowrank_set_replace(set, 0, generation, adapters[i - 1], &generation, &error), "replace");
            check(lowrank_session_reset(session, 0, &error), "reset");
            check(lowrank_session_select(session, 0, set, &choice, 1, &error), "select");
        }
        check(lowrank_session_prefill(session, 0, prompt, prompt_tokens, &error), "prefill");
        printf("%s: ", i == 0 ? "base" : i == 1 ? "adapter" : "other adapter");
        replies[i] = reply(session, 0, sampler, base, stream, tokens[i], most);
    }

    /* Once more with the first adapter, in sequence 1; in the middle it is swapped out of the set. The sequence keeps what it chose. */
    check(lowrank_set_replace(set, 0, generation, adapters[0], &generation, &error), "replace");
    check(lowrank_session_select(session, 1, set, &choice, 1, &error), "select");
    check(lowrank_session_prefill(session, 1, prompt, prompt_tokens, &error), "prefill");
    half = reply(session, 1, sampler, base, NULL, again, replies[1] / 2);
    check(lowrank_set_replace(set, 0, generation, adapters[1], &generation, &error), "replace");
    half += reply(session, 1, sampler, base, NULL, again + half, replies[1] - half);
    if (half != replies[1] || memcmp(again, tokens[1], half * sizeof again[0]) != 0) {
        fprintf(stderr, "FAIL: the swap touched a running sequence\n");
        return 1;
    }
    /* To use the other one now would mix two adapters in one cache; that is refused until the sequence is reset. */
    if (lowrank_session_select(session, 1, set, &choice, 1, &error) != LOWRANK_ERROR_CACHE_OF_OTHER_ADAPTERS) {
        fprintf(stderr, "FAIL: a cache of other adapters was accepted\n");
        return 1;
    }
    check(lowrank_session_reset(session, 1, &error), "reset");
    check(lowrank_session_select(session, 1, set, &choice, 1, &error), "select");
    check(lowrank_session_prefill(session, 1, prompt, prompt_tokens, &error), "prefill");
    half = reply(session, 1, sampler, base, NULL, again, most);
    if (half != replies[2] || memcmp(again, tokens[2], half * sizeof again[0]) != 0) {
        fprintf(stderr, "FAIL: the same adapter gives other tokens in another sequence\n");
        return 1;
    }
    printf("swapped in the middle of a sequence: it kept its adapter\n");

    lowrank_stream_close(stream, NULL);
    lowrank_text_close(text, NULL);
    lowrank_sampler_close(sampler, NULL);
    lowrank_session_close(session, NULL);
    lowrank_set_close(set, NULL);
    lowrank_adapter_close(adapters[0], NULL);
    lowrank_adapter_close(adapters[1], NULL);
    lowrank_base_close(base, NULL);
    for (int i = 0; i < 3; i++) {
        lowrank_file_close(files[i], NULL);
    }
    free(memory);
    return 0;
}
