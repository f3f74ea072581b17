"""What the README of a delivery in C says."""

from __future__ import annotations

from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import METADATA_FILE

# Not `runner`: some targets deliver a program of that name.
CC_LINE = "cc -O2 -std=c99 runner.c model.c -o run_here"
RUN_LINE = "./run_here golden/inputs.bin outputs.bin"
TEST_LINE = "cc -O2 -std=c99 testbench.c model.c -o testbench && ./testbench"


def about(metadata: DeliveryMetadata) -> str:
    """What lies in the folder."""
    return f"""The network as C99: integers only, no heap, no library but `<stdint.h>`. Compiled for {metadata.cpu}.

- `model.h`: the function `pocketpipe_run`; `model.c`: the calls, on memory planned beforehand; `kernels.h`: what is
  called; `weights.h`: all constants.
- `golden/`: `inputs.bin` and the `outputs.bin` that every build must give, to the last integer; `testbench.c` compares.
- `selftest.c`: some of these in C, for a device without files: `pocketpipe_selftest()` returns how many outputs differ.
- `runner.c`: runs the network on a file; `CMakeLists.txt` builds it, the test bench and the library."""


def ends(metadata: DeliveryMetadata) -> str:
    """What goes in and comes out."""
    integers = metadata.integers
    assert integers is not None, "deliveries in C say what their integers stand for"
    output = " x ".join(map(str, metadata.output_shape))
    grid = integers.output
    left = (
        f"Output: {output} int8, in the order of `labels` in `{METADATA_FILE}`; q stands for\n"
        f"`{grid.scale!r} * (q {_signed(-grid.zero_point)})`."
    )
    if integers.input is None:
        return f"That is inside: `pocketpipe_run` takes the stored bytes.\n{left}"
    entry = integers.input
    quantized = f"floor(x / {entry.scale!r} + 0.5) {_signed(entry.zero_point)}"
    return f"""`pocketpipe_run` takes what comes out of that as int8: `{quantized}`,
clipped to {entry.low}..{entry.high}.
{left}"""


def usage(metadata: DeliveryMetadata, own: str) -> str:
    """How to build, run and call it; `own`: the target's own sections."""
    integers = metadata.integers
    assert integers is not None, "deliveries in C say what their integers stand for"
    entering = "as stored" if integers.input is None else "prepared and quantized as above"
    return f"""## On any machine

```sh
{CC_LINE}
{RUN_LINE}
{TEST_LINE}
```

or `cmake -B build && cmake --build build && ctest --test-dir build`. The test bench prints how many values differ, and
ends with 0 if none does.

## From C

```c
#include "model.h"

pocketpipe_input input[POCKETPIPE_INPUTS]; /* {integers.input_type}, channels first, {entering} */
int8_t output[POCKETPIPE_OUTPUTS];
pocketpipe_run(input, output); /* with static memory; pocketpipe_run_in takes the caller's */
```

## From Python

```python
import pocketpipe

outputs = pocketpipe.load("this folder")(examples)  # examples as stored; needs NumPy, pydantic, a C compiler
```

{own}"""


def _signed(number: int) -> str:
    """As a summand.

    >>> _signed(-3)
    '- 3'
    """
    return f"{'-' if number < 0 else '+'} {abs(number)}"
