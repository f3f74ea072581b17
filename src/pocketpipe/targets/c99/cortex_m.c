/* A bare Cortex-M: vector table, start, and examples read from and written to the host's files by semihosting. */
#include <stddef.h>
#include <stdint.h>

#include "model.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns") /* or it would see a memset in memset, and call it */
#endif

extern uint32_t stack_top, data_in_flash, data_begin, data_end, bss_begin, bss_end;

void reset(void);

__attribute__((section(".vectors"), used)) static const uint32_t *const vectors[] = {&stack_top,
                                                                                       (const uint32_t *)reset};

enum { OPEN = 1, CLOSE = 2, WRITE = 5, READ = 6, EXIT = 0x20, READ_BINARY = 1, WRITE_BINARY = 5, DONE = 0x20026 };

static int32_t host(uint32_t operation, const void *arguments) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

static int32_t open_file(const char *name, uint32_t length, uint32_t mode) {
    const uint32_t arguments[] = {(uint32_t)name, mode, length};
    return host(OPEN, arguments);
}

static int32_t transfer(uint32_t operation, int32_t file, const void *bytes, uint32_t count) {
    const uint32_t arguments[] = {(uint32_t)file, (uint32_t)bytes, count};
    return host(operation, arguments); /* bytes that were not transferred */
}

/* What a compiler may call for its own loops, without a C library. */
void *memcpy(void *to, const void *from, size_t count) {
    unsigned char *sink = to;
    const unsigned char *source = from;
    while (count--) *sink++ = *source++;
    return to;
}

void *memset(void *to, int value, size_t count) {
    unsigned char *sink = to;
    while (count--) *sink++ = (unsigned char)value;
    return to;
}

static pocketpipe_input input[POCKETPIPE_INPUTS];
static int8_t output[POCKETPIPE_OUTPUTS];

/* 0, or 1 where a file is missing, the last example is cut short, or the host's disk is full. */
static uint32_t serve(void) {
    const int32_t source = open_file("input.bin", 9, READ_BINARY), sink = open_file("output.bin", 10, WRITE_BINARY);
    if (source < 0 || sink < 0) return 1;
    int32_t missing;
    while ((missing = transfer(READ, source, input, sizeof input)) == 0) {
        pocketpipe_run(input, output);
        if (transfer(WRITE, sink, output, sizeof output) != 0) return 1;
    }
    const uint32_t file = (uint32_t)sink;
    host(CLOSE, &file);
    return (uint32_t)missing != sizeof input;
}

void reset(void) {
    for (uint32_t *from = &data_in_flash, *to = &data_begin; to < &data_end;) *to++ = *from++;
    for (uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
    const uint32_t arguments[] = {DONE, serve()};
    host(EXIT, arguments);
    for (;;) {
    }
}
