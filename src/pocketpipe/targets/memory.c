/* The functions that compilers call of their own accord, and the runner's strlen, for binaries that are linked without a C library. */
#include <stddef.h>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-tree-loop-distribute-patterns") /* or it would see a memset in memset, and call it */
#endif

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    unsigned char *target = to;
    const unsigned char *source = from;
    while (size--) *target++ = *source++;
    return to;
}

void *memmove(void *to, const void *from, size_t size) {
    unsigned char *target = to;
    const unsigned char *source = from;
    if (target < source)
        while (size--) *target++ = *source++;
    else
        while (size--) target[size] = source[size];
    return to;
}

void *memset(void *to, int value, size_t size) {
    unsigned char *target = to;
    while (size--) *target++ = (unsigned char)value;
    return to;
}

size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length]) length++;
    return length;
}
