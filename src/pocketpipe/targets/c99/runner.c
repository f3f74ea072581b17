/* Reads examples from standard input, one after the other, and writes their outputs to standard output. */
#include <stdio.h>

#include "model.h"

int main(void) {
    static pocketpipe_input input[POCKETPIPE_INPUTS];
    static int8_t output[POCKETPIPE_OUTPUTS];
    while (fread(input, 1, sizeof input, stdin) == sizeof input) {
        pocketpipe_run(input, output);
        fwrite(output, 1, sizeof output, stdout);
    }
    return 0;
}
