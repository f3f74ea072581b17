/* Runs the golden inputs through the network and counts the outputs that are not the golden ones.

   testbench [FOLDER]      FOLDER: where inputs.bin and outputs.bin lie; "golden" if it is not given.

   Ends with 0 if none differs. */
#include <stdio.h>

#include "model.h"

static pocketpipe_input input[POCKETPIPE_INPUTS];
static int8_t output[POCKETPIPE_OUTPUTS], golden[POCKETPIPE_OUTPUTS];

static FILE *opened(const char *folder, const char *name) {
    char path[1024];
    const int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = length > 0 && (size_t)length < sizeof path ? fopen(path, "rb") : NULL;
    if (file == NULL) fprintf(stderr, "testbench: cannot read %s/%s\n", folder, name);
    return file;
}

int main(int argc, char **argv) {
    const char *folder = argc > 1 ? argv[1] : "golden";
    FILE *inputs = opened(folder, "inputs.bin"), *outputs = opened(folder, "outputs.bin");
    long examples = 0, differing = 0;
    if (inputs == NULL || outputs == NULL) return 2;
    size_t read;
    while ((read = fread(input, 1, sizeof input, inputs)) == sizeof input) {
        if (fread(golden, 1, sizeof golden, outputs) != sizeof golden) {
            fprintf(stderr, "testbench: outputs.bin ends before inputs.bin\n");
            return 2;
        }
        pocketpipe_run(input, output);
        for (long i = 0; i < POCKETPIPE_OUTPUTS; i++) differing += output[i] != golden[i];
        examples++;
    }
    if (read != 0 || fgetc(outputs) != EOF) {
        fprintf(stderr, "testbench: inputs.bin ends before outputs.bin, or within an example\n");
        return 2;
    }
    printf("%ld examples, %ld of %ld values differ\n", examples, differing, examples * POCKETPIPE_OUTPUTS);
    return examples == 0 || differing != 0;
}
