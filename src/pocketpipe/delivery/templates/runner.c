/* Runs the model on every example of a file.

   runner INPUT OUTPUT      INPUT: preprocessed examples, raw float32 in the machine's byte order, one after the other;
                            OUTPUT: their outputs, likewise. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "pocketpipe_model.h"

static int fail(const char *what, const char *name) {
    fprintf(stderr, "runner: %s %s\n", what, name);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 3) return fail("usage:", "runner INPUT OUTPUT");
    size_t inputs = pocketpipe_input_count(), outputs = pocketpipe_output_count(), examples = 0, got;
    float *input = malloc(inputs * sizeof(float)), *output = malloc(outputs * sizeof(float));
    FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
    clock_t spent = 0;
    if (!input || !output) return fail("out of memory for one example of", argv[1]);
    if (!from) return fail("cannot read", argv[1]);
    if (!to) return fail("cannot write", argv[2]);
    while ((got = fread(input, sizeof(float), inputs, from)) == inputs) {
        clock_t started = clock();
        pocketpipe_run(input, output);
        spent += clock() - started;
        examples += 1;
        if (fwrite(output, sizeof(float), outputs, to) != outputs) return fail("cannot write", argv[2]);
    }
    if (got != 0) return fail("last example is cut short in", argv[1]);
    if (fclose(to) != 0) return fail("cannot write", argv[2]);
    if (examples > 0)
        printf("%zu examples, %.4f ms each\n", examples, 1e3 * (double)spent / CLOCKS_PER_SEC / (double)examples);
    fclose(from);
    free(input);
    free(output);
    return 0;
}
