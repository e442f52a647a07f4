/*
 * Freestanding: a Cortex-M4F image without an operating system, a C library or a heap. A base and two adapters lie in flash
 * (archives.S), the workspace is a static array whose size `lowrank memory --firmware` printed (WORKSPACE_BYTES). Prints the tokens of
 * each round through semihosting; ends with status 0 only if everything went well. Runs under QEMU (mps2-an386).
 *
 * Compiled as C99 and as C++17, linked with link.ld and liblowrank.a built with the feature `panic-handler`.
 */
#include "task.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where archives.S has put them. */
extern const unsigned char base_start[], base_end[], adapter_a_start[], adapter_a_end[], adapter_b_start[], adapter_b_end[];
/* What link.ld knows. */
extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[], stack_top[];

int main(void);
void reset(void);
void fault(void);

#ifdef __cplusplus
}
#endif

/* Semihosting: the debugger, here QEMU, does what r0 says with what r1 points at. */
static void semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

#define SYS_WRITE0 0x04
#define SYS_EXIT 0x18
#define STOPPED_BY_EXIT 0x20026
#define STOPPED_BY_ERROR 0x20023

static void print(const char *text) {
    semihosting(SYS_WRITE0, text);
}

static void print_number(uint32_t number) {
    char digits[11];
    char *first = digits + sizeof digits - 1;
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    print(first);
}

static void finish(uint32_t reason) {
    semihosting(SYS_EXIT, (const void *)(uintptr_t)reason);
    for (;;) {
    }
}

/* The library found a bug in itself. */
static void panicked(const char *file, size_t file_bytes, uint32_t line) {
    char name[96];
    size_t i;
    for (i = 0; i < file_bytes && i + 1 < sizeof name; i++) {
        name[i] = file[i];
    }
    name[i] = '\0';
    print("FAIL: panic at ");
    print(name);
    print(":");
    print_number(line);
    print("\n");
    finish(STOPPED_BY_ERROR);
}

static task_archive archive(const unsigned char *start, const unsigned char *end) {
    task_archive found;
    found.start = start;
    found.bytes = (size_t)(end - start);
    return found;
}

static unsigned char workspace[WORKSPACE_BYTES] __attribute__((aligned(LOWRANK_MEMORY_ALIGN)));
static task_result result;

int main(void) {
    task_archive adapters[TASK_ROUNDS - 1];
    lowrank_error error;
    lowrank_code code;

    lowrank_on_panic(panicked);
    adapters[0] = archive(adapter_a_start, adapter_a_end);
    adapters[1] = archive(adapter_b_start, adapter_b_end);
    code = task_run(archive(base_start, base_end), adapters, workspace, sizeof workspace, NULL, 1, &result, &error);
    if (code != LOWRANK_OK) {
        print("FAIL: code ");
        print_number(code);
        print(": ");
        print(lowrank_code_text(code));
        print("\n");
        return 1;
    }
    if (result.need != sizeof workspace) {
        print("FAIL: the session needs ");
        print_number((uint32_t)result.need);
        print(" bytes, `lowrank memory --firmware` said ");
        print_number(sizeof workspace);
        print("\n");
        return 1;
    }
    for (int round = 0; round < TASK_ROUNDS; round++) {
        print("[");
        for (int i = 0; i < TASK_TOKENS; i++) {
            print(i > 0 ? ", " : "");
            print_number(result.tokens[round][i]);
        }
        print("]\n");
    }
    return 0;
}

void fault(void) {
    print("FAIL: fault\n");
    finish(STOPPED_BY_ERROR);
}

/* From reset to main: the floating-point unit on, data copied from flash, the rest of RAM zero. */
void reset(void) {
    volatile uint32_t *const coprocessor_access = (volatile uint32_t *)(uintptr_t)0xe000ed88;
    *coprocessor_access |= 0xfu << 20;
    __asm__ volatile("dsb\n\tisb" ::: "memory");
    for (uint32_t *from = data_load, *to = data_start; to < data_end; from++, to++) {
        *to = *from;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    finish(main() == 0 ? STOPPED_BY_EXIT : STOPPED_BY_ERROR);
}
