/* The integer network behind the interface of every delivery: prepared numbers in, real numbers out. */
#include "pocketpipe_model.h"

#define POCKETPIPE_NO_STATIC_MEMORY
#define pocketpipe_run pocketpipe_integers_of
#define pocketpipe_run_in pocketpipe_integers
#include "model.c"
#undef pocketpipe_run
#undef pocketpipe_run_in

#include "grid.h"

size_t pocketpipe_input_count(void) { return POCKETPIPE_INPUT_COUNT; }
size_t pocketpipe_output_count(void) { return POCKETPIPE_OUTPUT_COUNT; }
size_t pocketpipe_arena_bytes(void) { return POCKETPIPE_ARENA_BYTES; }

/* floor(x / scale + 1/2) + zero point, clipped first so that it fits the integer. */
static int8_t on_grid(float x) {
    double place = (double)x / INPUT_SCALE + 0.5 + INPUT_ZERO_POINT;
    if (!(place > INPUT_LOW)) return INPUT_LOW; /* not a number, too */
    if (place >= INPUT_HIGH) return INPUT_HIGH;
    int32_t whole = (int32_t)place; /* towards zero */
    return (int8_t)(whole > place ? whole - 1 : whole);
}

void pocketpipe_run_in(void *memory, const float *input, float *output) {
    int8_t *integers = memory;
    int8_t *entering = integers + POCKETPIPE_ARENA, *leaving = entering + POCKETPIPE_INPUTS;
    for (size_t i = 0; i < POCKETPIPE_INPUTS; i++) entering[i] = on_grid(input[i]);
    pocketpipe_integers(integers, entering, leaving);
    for (size_t i = 0; i < POCKETPIPE_OUTPUTS; i++)
        output[i] = (float)((leaving[i] - OUTPUT_ZERO_POINT) * OUTPUT_SCALE);
}

int pocketpipe_run(const float *input, float *output) {
    static unsigned char arena[POCKETPIPE_ARENA_BYTES] __attribute__((aligned(64)));
    pocketpipe_run_in(arena, input, output);
    return 0;
}
