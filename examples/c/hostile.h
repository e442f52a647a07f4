/*
 * What the hostile programs check with: a call, and the code that it must come back with. Not an interface of the library.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <stdio.h>
#include <string.h>

#include <lowrank.h>

static lowrank_error error;
static int checks, failures;

/* The code must be `expected`; the error structure must say the same. */
static void expect_at(int line, const char *call, lowrank_code found, lowrank_code expected) {
    checks++;
    if (found != expected) {
        failures++;
        fprintf(stderr, "line %d: %s: code %lu (%s), expected %lu (%s)\n", line, call, (unsigned long)found, lowrank_code_text(found),
                (unsigned long)expected, lowrank_code_text(expected));
    }
}

static void expect_told_at(int line, const char *call, lowrank_code found, lowrank_code expected) {
    char sentence[300];
    expect_at(line, call, found, expected);
    if (found != LOWRANK_OK && (error.code != found || lowrank_error_message(&error, sentence, sizeof sentence) == 0)) {
        failures++;
        fprintf(stderr, "line %d: %s: the error structure says %lu\n", line, call, (unsigned long)error.code);
    }
    memset(&error, 0xa5, sizeof error);
}

#define EXPECT(call, expected) expect_told_at(__LINE__, #call, call, LOWRANK_##expected)
/* For calls without an error structure. */
#define CODE(call, expected) expect_at(__LINE__, #call, call, LOWRANK_##expected)
#define TRUE(condition) expect_at(__LINE__, #condition, (condition) ? LOWRANK_OK : 1, LOWRANK_OK)

/* Something that is aligned but no object. */
static uint64_t garbage[512];
#define GARBAGE(type) ((type *)(void *)garbage)
#define ODD(type, pointer) ((type *)(void *)((char *)(void *)(pointer) + 1))
#define ENDLESS ((size_t)-64)

#endif
