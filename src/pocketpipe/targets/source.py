"""The C source of a model: the sequence of kernel calls on planned memory."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketpipe.targets.lowering.program import Place, Program

EXPORTS = "{ global: pocketpipe_input_count; pocketpipe_output_count; pocketpipe_arena_bytes; pocketpipe_run; \
pocketpipe_run_in; local: *; };\n"
"""Linker version script: only the functions of the header are seen from outside."""

WEIGHTS_FILE = "weights.bin"

_TEMPLATE = """\
#include "pocketpipe_model.h"

/* .incbin, because a C array of a megabyte takes a compiler seconds. */
__asm__(".section .rodata\\n.balign 64\\npocketpipe_weights:\\n.incbin \\"{weights}\\"\\n.previous\\n");
extern const unsigned char pocketpipe_weights[] __attribute__((visibility("hidden")));

{declarations}

size_t pocketpipe_input_count(void) {{ return POCKETPIPE_INPUT_COUNT; }}
size_t pocketpipe_output_count(void) {{ return POCKETPIPE_OUTPUT_COUNT; }}
size_t pocketpipe_arena_bytes(void) {{ return POCKETPIPE_ARENA_BYTES; }}

void pocketpipe_run_in(void *memory, const float *input, float *output) {{
    unsigned char *arena = memory;
{calls}
}}

int pocketpipe_run(const float *input, float *output) {{
    static unsigned char arena[POCKETPIPE_ARENA_BYTES] __attribute__((aligned(64)));
    pocketpipe_run_in(arena, input, output);
    return 0;
}}
"""


def model_source(program: "Program") -> str:
    """`model.c`, to be compiled beside the header, the weights file and linked to the kernels' object file."""
    kernels = {call.kernel: len(call.arguments) for call in program.calls}
    return _TEMPLATE.format(
        weights=WEIGHTS_FILE,
        declarations="\n".join(
            f"extern void {name}({', '.join(['const void *'] * count)});" for name, count in kernels.items()
        ),
        calls="\n".join(
            f"    {call.kernel}({', '.join(_pointer(place) for place in call.arguments)});" for call in program.calls
        ),
    )


def _pointer(place: "Place") -> str:
    base = {"weights": "pocketpipe_weights"}.get(place.region, place.region)
    return f"{base} + {place.offset}" if place.offset else base
