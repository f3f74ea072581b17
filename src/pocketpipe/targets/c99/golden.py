"""Golden vectors of C: examples where none are given, the first one of a delivery, and a test without files."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from pocketpipe.delivery.folder import GOLDEN, INPUTS
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.targets.c99.constants import array_of

MADE_UP = 8
"""Examples, where none are given."""
SELFTEST = "selftest.c"
SELFTEST_BYTES = 2**15
"""Of golden examples and their outputs, for which a device may have flash to spare; one, if it is larger."""


def made_up(shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    """(N, *shape): every value of the integer type `kind` alike likely."""
    limits = np.iinfo(kind)
    return np.random.default_rng(0).integers(limits.min, limits.max, (MADE_UP, *shape), kind, endpoint=True)


def one_example(delivery: Path) -> np.ndarray:
    """The first golden input (1, bytes), as it lies in the file."""
    entering = np.fromfile(delivery / GOLDEN / INPUTS, np.uint8)
    return entering.reshape(-1, prod(DeliveryMetadata.read(delivery).input_shape))[:1]


def selftest(entering: np.ndarray, leaving: np.ndarray) -> str:
    """A C file with golden examples (N, ...) and their outputs (N, ...): what a device without files can check."""
    count = max(1, min(len(entering), SELFTEST_BYTES // (entering[0].size + leaving[0].size)))
    arrays = (array_of("golden_inputs", entering[:count]), array_of("golden_outputs", leaving[:count]))
    return _SELFTEST.format(count=count, arrays="\n".join(arrays))


_SELFTEST = """\
/* Golden examples ({count}) for a device without files: link this beside model.c. It returns how many outputs are not
   the golden ones; 0 is right. With names of your own (-Dpocketpipe_run=...) give it one, too. */
#include "model.h"

int32_t pocketpipe_selftest(void);

{arrays}

int32_t pocketpipe_selftest(void) {{
    static int8_t output[POCKETPIPE_OUTPUTS];
    int32_t differing = 0;
    for (int32_t example = 0; example < {count}; example++) {{
        pocketpipe_run(golden_inputs + example * POCKETPIPE_INPUTS, output);
        for (int32_t i = 0; i < POCKETPIPE_OUTPUTS; i++) {{
            differing += output[i] != golden_outputs[example * POCKETPIPE_OUTPUTS + i];
        }}
    }}
    return differing;
}}
"""
