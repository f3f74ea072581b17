"""The C source of a model: the sequence of kernel calls on planned memory."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pocketpipe.integer.graph import IntegerGraph
    from pocketpipe.targets.lowering.integers.program import IntegerProgram
    from pocketpipe.targets.lowering.program import Place, Program

EXPORTS = "{ global: pocketpipe_input_count; pocketpipe_output_count; pocketpipe_arena_bytes; pocketpipe_run; \
pocketpipe_run_in; local: *; };\n"
"""Linker version script: only the functions of the header are seen from outside."""

WEIGHTS_FILE = "weights.bin"

_HEAD = """\
#include "pocketpipe_model.h"
{includes}
/* .incbin, because a C array of a megabyte takes a compiler seconds. */
__asm__(".section .rodata\\n.balign 64\\npocketpipe_weights:\\n.incbin \\"{weights}\\"\\n.previous\\n");
extern const unsigned char pocketpipe_weights[] __attribute__((visibility("hidden")));

{declarations}

size_t pocketpipe_input_count(void) {{ return POCKETPIPE_INPUT_COUNT; }}
size_t pocketpipe_output_count(void) {{ return POCKETPIPE_OUTPUT_COUNT; }}
size_t pocketpipe_arena_bytes(void) {{ return POCKETPIPE_ARENA_BYTES; }}
"""

_TAIL = """
int pocketpipe_run(const float *input, float *output) {{
    static unsigned char arena[POCKETPIPE_ARENA_BYTES] __attribute__((aligned(64)));
    pocketpipe_run_in(arena, input, output);
    return 0;
}}
"""

_FLOATS = """
void pocketpipe_run_in(void *memory, const float *input, float *output) {{
    unsigned char *arena = memory;
{calls}
}}
"""

_INTEGERS = """
/* floor(x / scale + 1/2) + zero point, within its range; clipped first, so that it fits an int. No branch: vectors. */
static int8_t on_grid(float x) {{
    const double low = {low} - ({zero_point}), high = {high} - ({zero_point});
    double place = (double)x / {scale!r} + 0.5;
    place = place > low ? place : low; /* what is not a number, too */
    place = place < high ? place : high;
    const int32_t whole = (int32_t)place; /* towards zero */
    return (int8_t)(whole - (whole > place) + ({zero_point}));
}}

void pocketpipe_run_in(void *memory, const float *input, float *output) {{
    int8_t *arena = memory;
    for (int i = 0; i < POCKETPIPE_INPUT_COUNT; i++) arena[{entry} + i] = on_grid(input[i]);
{calls}
    for (int i = 0; i < POCKETPIPE_OUTPUT_COUNT; i++)
        output[i] = (float)((arena[{end} + i] - ({end_zero_point})) * {end_scale!r});
}}
"""


def model_source(program: "Program") -> str:
    """`model.c`, to be compiled beside the header, the weights file and linked to the kernels' object file."""
    kernels = {call.kernel: len(call.arguments) for call in program.calls}
    calls = [f"{call.kernel}({', '.join(map(_pointer, call.arguments))});" for call in program.calls]
    return _head(kernels) + _FLOATS.format(calls=_lines(calls)) + _TAIL.format()


def integer_sources(program: "IntegerProgram", graph: "IntegerGraph") -> dict[str, str]:
    """`model.c` of an integer graph with what it includes, by file name; float numbers in and out like any other."""
    tensor, end = graph.tensors[graph.input], graph.tensors[graph.output]
    source = (
        _head(dict(program.kernels), '#include "kernels.h"\n#include "weights.h"\n')
        + _INTEGERS.format(
            low=tensor.low, high=tensor.high, zero_point=tensor.zero_point, scale=tensor.scale, entry=program.input,
            calls=_lines(program.calls), end=program.output, end_zero_point=end.zero_point, end_scale=end.scale,
        )
        + _TAIL.format()
    )  # fmt: skip
    plain = program.plain.files(of_bytes=False)
    return {"model.c": source, **{name: plain[name] for name in ("kernels.h", "weights.h")}}


def _head(kernels: "Mapping[str, int]", includes: str = "") -> str:
    declarations = (f"extern void {name}({', '.join(['const void *'] * count)});" for name, count in kernels.items())
    return _HEAD.format(includes=includes, weights=WEIGHTS_FILE, declarations="\n".join(declarations))


def _lines(calls: "Iterable[str]") -> str:
    return "\n".join(f"    {call}" for call in calls)


def _pointer(place: "Place") -> str:
    base = {"weights": "pocketpipe_weights"}.get(place.region, place.region)
    return f"{base} + {place.offset}" if place.offset else base
