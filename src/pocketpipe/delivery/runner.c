/* Runs the model on every example of a file.

   runner INPUT OUTPUT [GOLDEN]     INPUT: examples of type @INPUT@, as the model takes them, raw, in the machine's byte
                                    order, one after the other; OUTPUT: their outputs of type @OUTPUT@, likewise.
                                    GOLDEN: the outputs that must come; fails if others do. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "@HEADER@"

static @INPUT@ input[@INPUTS@];
static @OUTPUT@ output[@OUTPUTS@], golden[@OUTPUTS@];

/* How far outputs may be from the golden ones, as a share of the largest of an example; 0: equal. */
#define TOLERANCE @TOLERANCE@

static int fail(const char *what, const char *name) {
    const char *parts[] = {"runner: ", what, " ", name, "\n"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (write(2, parts[i], strlen(parts[i])) < 0) break;
    return 1;
}

/* Bytes read: `size`, or less at the end of the file; -1 if it cannot be read. */
static ssize_t read_whole(int file, char *to, size_t size) {
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(file, to + done, size - done);
        if (got < 0) return -1;
        if (got == 0) break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

static int write_whole(int file, const char *from, size_t size) {
    while (size > 0) {
        ssize_t put = write(file, from, size);
        if (put <= 0) return -1;
        from += put;
        size -= (size_t)put;
    }
    return 0;
}

/* Whether every output is a golden one; what is no number never is. */
static int as_golden(void) {
    @OUTPUT@ largest = 0;
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        if (golden[i] > largest) largest = golden[i];
        if (-golden[i] > largest) largest = -golden[i];
    }
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        if (!(output[i] - golden[i] <= TOLERANCE * largest && golden[i] - output[i] <= TOLERANCE * largest)) return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) return fail("usage:", "runner INPUT OUTPUT [GOLDEN]");
    int from = open(argv[1], O_RDONLY), to = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int known = argc == 4 ? open(argv[3], O_RDONLY) : 0;
    if (from < 0) return fail("cannot read", argv[1]);
    if (to < 0) return fail("cannot write", argv[2]);
    if (known < 0) return fail("cannot read", argv[3]);
    ssize_t got;
    while ((got = read_whole(from, (char *)input, sizeof input)) == (ssize_t)sizeof input) {
        @RUN@(input, output);
        if (write_whole(to, (const char *)output, sizeof output) != 0) return fail("cannot write", argv[2]);
        if (argc == 3) continue;
        if (read_whole(known, (char *)golden, sizeof golden) != (ssize_t)sizeof golden)
            return fail("has not as many outputs as there are examples:", argv[3]);
        if (!as_golden()) return fail("the outputs are not those of", argv[3]);
    }
    if (argc == 4 && read_whole(known, (char *)golden, 1) != 0)
        return fail("has more outputs than there are examples:", argv[3]);
    if (got < 0) return fail("cannot read", argv[1]);
    if (got > 0) return fail("the last example is cut short in", argv[1]);
    return 0;
}
