"""The C source of a model: the sequence of kernel calls on planned memory."""

from dataclasses import dataclass
from importlib import resources
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pocketpipe.delivery.folder import CLOSE, RUN_BYTES
from pocketpipe.targets import sharing
from pocketpipe.targets.c99.sources import headers
from pocketpipe.targets.lowering.memory import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketpipe.integer.graph import IntegerGraph
    from pocketpipe.targets.lowering.integers.program import IntegerProgram
    from pocketpipe.targets.lowering.program import Place, Program

WEIGHTS_FILE = "weights.bin"
FLOAT_BYTES = 4

_HEAD = """\
{features}#include "pocketpipe_model.h"
{includes}
/* .incbin, because a C array of a megabyte takes a compiler seconds. */
__asm__(".section .rodata\\n.balign 64\\npocketpipe_weights:\\n.incbin \\"{weights}\\"\\n.previous\\n");
extern const unsigned char pocketpipe_weights[] __attribute__((visibility("hidden")));

{declarations}

{team}size_t pocketpipe_input_count(void) {{ return POCKETPIPE_INPUT_COUNT; }}
size_t pocketpipe_output_count(void) {{ return POCKETPIPE_OUTPUT_COUNT; }}
size_t pocketpipe_arena_bytes(void) {{ return POCKETPIPE_ARENA_BYTES; }}
"""

_TAIL = """
static unsigned char static_arena[POCKETPIPE_ARENA_BYTES] __attribute__((aligned(64)));

int pocketpipe_run(const float *input, float *output) {{
    pocketpipe_run_in(static_arena, input, output);
    return 0;
}}
"""

_OF_BYTES = """
/* Stored bytes by a table for each of {channels} channels: preprocessing{and_scale} inside. */
void pocketpipe_run_bytes_in(void *memory, const unsigned char *input, float *output) {{
    const {kind} *table = (const {kind} *)(pocketpipe_weights + {tables});
    {kind} *entry = ({kind} *)((unsigned char *)memory + {entry});
    for (int channel = 0; channel < {channels}; channel++, table += 256)
        for (int i = 0; i < POCKETPIPE_INPUT_COUNT / {channels}; i++) *entry++ = table[*input++];
    {go_on};
}}

int pocketpipe_run_bytes(const unsigned char *input, float *output) {{
    pocketpipe_run_bytes_in(static_arena, input, output);
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

static void run_integers(int8_t *arena, float *output) {{
{calls}
    for (int i = 0; i < POCKETPIPE_OUTPUT_COUNT; i++)
        output[i] = (float)((arena[{end} + i] - ({end_zero_point})) * {end_scale!r});
}}

void pocketpipe_run_in(void *memory, const float *input, float *output) {{
    int8_t *arena = memory;
    for (int i = 0; i < POCKETPIPE_INPUT_COUNT; i++) arena[{entry} + i] = on_grid(input[i]);
    run_integers(arena, output);
}}
"""


@dataclass(frozen=True)
class Sources:
    """What is compiled beside the header and linked to the kernels' object file."""

    files: dict[str, str]
    """C by file name; `model.c` includes the others."""
    weights: bytes
    """Of WEIGHTS_FILE: constants, and the tables by which bytes enter."""
    arena: int
    """Bytes of working memory."""


def model_sources(program: "Program", tables: np.ndarray | None, threads: int) -> Sources:
    """Of a model in float32. `tables`: float32 (channels, 256), its input for each stored byte, or None."""
    kernels = {call.kernel: (len(call.arguments), call.units > 0) for call in program.calls}
    calls = [
        sharing.call(call.kernel, [*map(_pointer, call.arguments)], call.units, call.parts) for call in program.calls
    ]
    prepared = aligned(program.arena_bytes)
    weights, place = _with_tables(program.weights, tables)
    head = _head(kernels, sharing.team(calls, threads, "unsigned char"))
    source = head + _FLOATS.format(calls=sharing.body(calls, "input, output")) + _TAIL.format()
    arena = program.arena_bytes
    if tables is not None:
        source += _OF_BYTES.format(
            channels=len(tables), and_scale=" is", kind="float", tables=place, entry=prepared,
            go_on=f"pocketpipe_run_in(memory, (const float *)((unsigned char *)memory + {prepared}), output)",
        )  # fmt: skip
        arena = prepared + FLOAT_BYTES * prod(program.input_shape)
    return Sources({"model.c": source} | _team(threads), weights, arena)


def integer_sources(
    program: "IntegerProgram", graph: "IntegerGraph", tables: np.ndarray | None, threads: int
) -> Sources:
    """Of an integer graph; float numbers in and out like any other. `tables`: int8 (channels, 256), or None."""
    tensor, end = graph.tensors[graph.input], graph.tensors[graph.output]
    weights, place = _with_tables(program.weights, tables)
    source = (
        _head(
            program.kernels, sharing.team(program.calls, threads, "int8_t"),
            '#include "kernels.h"\n#include "weights.h"\n',
        )
        + _INTEGERS.format(
            low=tensor.low, high=tensor.high, zero_point=tensor.zero_point, scale=tensor.scale, entry=program.input,
            calls=sharing.body(program.calls, "0, output"), end=program.output, end_zero_point=end.zero_point,
            end_scale=end.scale,
        )
        + _TAIL.format()
    )  # fmt: skip
    if tables is not None:
        source += _OF_BYTES.format(
            channels=len(tables), and_scale=" and the input's scale are", kind="int8_t", tables=place,
            entry=program.input, go_on="run_integers(memory, output)",
        )  # fmt: skip
    return Sources({"model.c": source} | headers(program.plain) | _team(threads), weights, program.arena)


def _team(threads: int) -> dict[str, str]:
    """The file with the threads, if there are several."""
    return {sharing.TEAM: (resources.files("pocketpipe.targets") / sharing.TEAM).read_text()} if threads > 1 else {}


def exports(takes_bytes: bool, threads: int) -> str:
    """Linker version script: only the functions of the header are seen from outside."""
    functions = [f"pocketpipe_{name}" for name in ("input_count", "output_count", "arena_bytes", "run", "run_in")]
    functions += [RUN_BYTES, f"{RUN_BYTES}_in"] if takes_bytes else []
    functions += [CLOSE] if threads > 1 else []
    return f"{{ global: {'; '.join(functions)}; local: *; }};\n"


def _with_tables(weights: bytes, tables: np.ndarray | None) -> tuple[bytes, int]:
    """(weights and tables, where the tables begin)."""
    if tables is None:
        return weights, 0
    start = aligned(len(weights))
    return weights.ljust(start, b"\0") + tables.tobytes(), start


def _head(kernels: "Mapping[str, tuple[int, bool]]", team: str, includes: str = "") -> str:
    """`kernels`: how many pointers each takes, and whether two numbers follow."""
    declarations = (
        f"extern void {name}({', '.join(['const void *'] * pointers + ['int', 'int'] * cut)});"
        for name, (pointers, cut) in kernels.items()
    )
    lines = "\n".join(declarations)
    features = team and f"{sharing.FEATURES}\n"
    return _HEAD.format(
        features=features, includes=includes, weights=WEIGHTS_FILE, declarations=lines, team=team and f"{team}\n"
    )


def _pointer(place: "Place") -> str:
    base = {"weights": "pocketpipe_weights"}.get(place.region, place.region)
    offset = f" + {place.offset}" if place.offset else ""
    return base + offset + (f" + part * {place.step}" if place.step else "")
