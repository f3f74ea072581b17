"""The C files of an integer graph: kernels and weights as headers, one function on statically planned memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from pocketpipe.integer.codebook import Codebook, codebooks_of
from pocketpipe.integer.graph import Convolution, IntegerGraph, IntegerTensor, Linear, Operator, Reshape
from pocketpipe.targets.c99.emitting import Emitter
from pocketpipe.targets.c99.kernels import KERNELS, kernels_for
from pocketpipe.targets.lowering.memory import Interval, Lifetimes, Use, plan

WEIGHTS, HEADER, MODEL = "weights.h", "model.h", "model.c"
UNROLL = 8
"""Products that a circuit forms in a cycle, where nothing else is asked."""
SHARED_KERNEL = 512
"""About the bytes of code that the kernel for shared weights takes on a Cortex-M."""


@dataclass(frozen=True)
class Sources:
    """The files by their names, and what they take."""

    files: dict[str, str]
    arena: int
    """Bytes of working memory, input and output included."""
    constants: int
    """Bytes of weights, biases, factors and tables."""
    codebooks: Mapping[str, Codebook] = field(default_factory=dict)
    """Of the layers whose weights lie as indices into tables, by the tensor that they make."""
    entry: int = 0
    """Bytes of the tables by which stored bytes become integers."""


def sources(graph: IntegerGraph, entry: np.ndarray | None = None, unroll: int = UNROLL) -> Sources:
    """The C files of `graph`.

    `entry`: int8 (channels, 256), the network's integer for each stored byte of each channel; the model's input is then
    an image of bytes. Without it, its input are the network's integers. `unroll`: products a cycle, for synthesis.
    Raises UserError that names the operator for what no kernel takes: more than three axes, say.
    """
    offsets, arena = _memory(graph)
    emitter = Emitter(graph, offsets, codebooks_of(graph, SHARED_KERNEL))
    emitter.enter(entry)
    for operator in graph.operators:
        emitter.emit(operator)
    emitter.leave()
    files = headers(emitter) | _functions(emitter, arena, unroll, takes_bytes=entry is not None)
    entering = 0 if entry is None else entry.nbytes
    return Sources(files, arena, emitter.constants.size, emitter.codebooks, entering)


def check(graph: IntegerGraph, operators: Iterable[Operator]) -> None:
    """Raise UserError, naming it, for one of the graph's `operators` that no kernel takes. Quick: layers, whose weights
    take time to write, all have kernels.
    """
    emitter = Emitter(graph, dict.fromkeys(graph.tensors, 0))
    for operator in operators:
        if not isinstance(operator, Convolution | Linear):
            emitter.emit(operator)


def headers(emitter: Emitter) -> dict[str, str]:
    """What the calls need: the kernels that they call, and their constants."""
    constants = _WEIGHTS.format(constants="\n".join(emitter.constants.definitions))
    return {KERNELS: kernels_for(emitter.calls), WEIGHTS: constants}


def _memory(graph: IntegerGraph) -> tuple[dict[str, int], int]:
    """(offset of each tensor, bytes): a reshape takes no memory of its own."""
    uses = [Use(each.inputs, each.output, isinstance(each, Reshape)) for each in graph.operators]
    lifetimes = Lifetimes.of(uses, graph.input, graph.output)
    places, arena = plan(
        [Interval(name, graph.tensors[name].elements, *steps) for name, steps in lifetimes.steps.items()]
    )
    return lifetimes.offsets(places), arena


def _functions(emitter: Emitter, arena: int, unroll: int, *, takes_bytes: bool) -> dict[str, str]:
    entry, end = (emitter.graph.tensors[name] for name in (emitter.graph.input, emitter.graph.output))
    model = _MODEL.format(
        unroll=unroll,
        banks="\n".join(f"    POCKETPIPE_BANKS({name})" for name in ("arena", *emitter.weights)),
        calls="\n".join(f"    {call}" for call in emitter.calls),
    )
    header = _HEADER.format(
        own="@OWN@",
        input_type="uint8_t" if takes_bytes else "int8_t",
        input_shape=" x ".join(map(str, entry.shape)),
        entering="bytes as stored" if takes_bytes else "POCKETPIPE_INPUT_SCALE * (q - POCKETPIPE_INPUT_ZERO_POINT)",
        output_shape=" x ".join(map(str, end.shape)),
        inputs=entry.elements,
        outputs=end.elements,
        arena=arena,
        grids=_grid("OUTPUT", end) if takes_bytes else f"{_grid('INPUT', entry)}\n{_grid('OUTPUT', end)}",
    )
    own = crc32("".join((header, model, *emitter.constants.definitions)).encode())
    return {HEADER: header.replace("@OWN@", f"0x{own:08x}"), MODEL: model}


def _grid(side: str, tensor: IntegerTensor) -> str:
    """As macros: float constants are these scales to the bit, which come from float32."""
    return f"""\
#define POCKETPIPE_{side}_SCALE {tensor.scale!r}f
#define POCKETPIPE_{side}_ZERO_POINT ({tensor.zero_point})"""


_WEIGHTS = """\
/* Weights, biases, factors, tables and sizes of the network. */
#ifndef POCKETPIPE_WEIGHTS_H
#define POCKETPIPE_WEIGHTS_H

#include "kernels.h"

{constants}

#endif
"""

_HEADER = """\
/* The network as one function. */
#if defined(POCKETPIPE_MODEL) && POCKETPIPE_MODEL != {own}
#error "this file has another network's model.h already: one network a file"
#endif
#ifndef POCKETPIPE_MODEL
#define POCKETPIPE_MODEL {own}

#include <stdint.h>

/* Input: {input_shape}, channels first, {entering}.
   Output: {output_shape}, POCKETPIPE_OUTPUT_SCALE * (q - POCKETPIPE_OUTPUT_ZERO_POINT), in the order of `labels` in
   metadata.json. */
#define POCKETPIPE_INPUTS {inputs}
#define POCKETPIPE_OUTPUTS {outputs}
#define POCKETPIPE_ARENA {arena} /* bytes of static working memory */
{grids}

typedef {input_type} pocketpipe_input;

#ifdef __cplusplus
extern "C" {{
#endif

/* With static working memory: not from two threads, or a thread and an interrupt, at once. */
void pocketpipe_run(const pocketpipe_input input[POCKETPIPE_INPUTS], int8_t output[POCKETPIPE_OUTPUTS]);

/* With working memory of the caller's: several examples at once. */
void pocketpipe_run_in(int8_t arena[POCKETPIPE_ARENA], const pocketpipe_input input[POCKETPIPE_INPUTS],
                       int8_t output[POCKETPIPE_OUTPUTS]);

#ifdef __cplusplus
}}
#endif

#endif
"""

_MODEL = """\
#include "model.h"

#ifndef POCKETPIPE_UNROLL
#define POCKETPIPE_UNROLL {unroll} /* products a cycle, where a circuit is made of this */
#endif
#include "weights.h"

void pocketpipe_run_in(int8_t arena[POCKETPIPE_ARENA], const pocketpipe_input input[POCKETPIPE_INPUTS],
                       int8_t output[POCKETPIPE_OUTPUTS]) {{
{banks}
{calls}
}}

#ifndef POCKETPIPE_NO_STATIC_MEMORY
void pocketpipe_run(const pocketpipe_input input[POCKETPIPE_INPUTS], int8_t output[POCKETPIPE_OUTPUTS]) {{
    static int8_t arena[POCKETPIPE_ARENA];
    pocketpipe_run_in(arena, input, output);
}}
#endif
"""
