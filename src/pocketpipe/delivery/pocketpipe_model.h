/* A compiled network. Plain C: no runtime, @NEEDS@. */
#ifndef POCKETPIPE_MODEL_H
#define POCKETPIPE_MODEL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* float32 numbers of one example and of its output; bytes of working memory. */
#define POCKETPIPE_INPUT_COUNT @INPUTS@
#define POCKETPIPE_OUTPUT_COUNT @OUTPUTS@
#define POCKETPIPE_ARENA_BYTES @ARENA@

/* The same numbers, for who loads the library while running. */
size_t pocketpipe_input_count(void);
size_t pocketpipe_output_count(void);
size_t pocketpipe_arena_bytes(void);

/* One example, preprocessed, channels first as in metadata.json -> its output. Returns 0.
   Uses memory of the library's own: not from two threads at once. */
int pocketpipe_run(const float *input, float *output);

/* The same in memory that the caller gives: POCKETPIPE_ARENA_BYTES bytes, aligned to 64. Safe in threads. */
void pocketpipe_run_in(void *arena, const float *input, float *output);
@BYTES@@TEAM@
#ifdef __cplusplus
}
#endif

#endif
