/* Runs the golden examples and compares every output: returns 0 and says so if all are right. */
#include <stdio.h>

#include "golden.h"
#include "model.h"

int main(void) {
    int differing = 0;
    for (int example = 0; example < GOLDEN_EXAMPLES; example++) {
        int8_t output[POCKETPIPE_OUTPUTS];
        pocketpipe_run(golden_inputs + example * POCKETPIPE_INPUTS, output);
        for (int i = 0; i < POCKETPIPE_OUTPUTS; i++)
            if (output[i] != golden_outputs[example * POCKETPIPE_OUTPUTS + i]) differing++;
    }
    printf("%d examples, %d differing outputs\n", GOLDEN_EXAMPLES, differing);
    return differing != 0;
}
