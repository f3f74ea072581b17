"""The README of a delivery folder: what it is, what it takes, how it is used."""

from collections.abc import Mapping

from pocketpipe.delivery.integers import BYTES
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import METADATA_FILE

MEASURED_HEADING = "\n## Measured\n"
FIGURES = {
    "milliseconds": "milliseconds (median of calls on that host)",
    "instructions": "executed instructions (counted by an emulator)",
}
"""What is said of figures by name."""


def page(metadata: DeliveryMetadata, *, about: str, sizes: Mapping[str, int], ends: str, usage: str) -> str:
    """Any delivery. `sizes`: bytes by what takes them; `ends`: the output, in words; `usage`: sections on its use."""
    shape = " x ".join(map(str, metadata.input_shape))
    preprocessing = metadata.preprocessing
    return f"""# {metadata.network} for {metadata.task}, compiled for {metadata.target}

{about}

| what | bytes |
|---|---|
{_rows(sizes)}

One example: {shape}, stored as {metadata.input_dtype}.
Before the model: `(x * {preprocessing.scale!r} - mean) / std` in float32, mean {list(preprocessing.mean)},
std {list(preprocessing.std)} (one for all, or one for each index of the first axis).
{ends}

{usage}

`{METADATA_FILE}` holds shapes, labels, preprocessing and the SHA-256 of what this was made from, and of all other
files but `measured.json` and this one.
"""


def with_measured(text: str, figures: Mapping[str, float]) -> str:
    """A README that tells what one example took, in place of what it told before."""
    rows = "\n".join(f"| {FIGURES.get(name, name)} | {_number(value)} |" for name, value in figures.items())
    return f"""{text.partition(MEASURED_HEADING)[0]}{MEASURED_HEADING}
| of one example, where this was compiled | |
|---|---|
{rows}
"""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def library_page(metadata: DeliveryMetadata, *, header: str, runner: str, build: str, run: str) -> str:
    """A library of float32 in and out; `build` and `run` are command lines for the runner."""
    footprint = metadata.footprint
    assert footprint is not None, "the target fills in the footprint before it describes it"
    output = " x ".join(map(str, metadata.output_shape))
    stored = metadata.input_dtype == BYTES
    entering = "examples as stored (preprocessing is inside)" if stored else "float32 examples, preprocessed"
    return page(
        metadata,
        about=(
            "`model.so` holds code and weights and needs no other library of ours; `libmodel.a` is the same, to be "
            f"linked into a program. Compiled for {metadata.cpu}.{_on_threads(metadata.threads)}"
        ),
        sizes={
            "library (`model.so`)": footprint.library,
            "of which weights": footprint.weights,
            "working memory of one inference": footprint.arena,
        },
        ends=f"Output: {output} float32, in the order of `labels` in `{METADATA_FILE}`.",
        usage=f"""## From Python

```python
from pocketpipe_model import Model  # `pocketpipe_model.py` beside this file; needs NumPy

outputs = Model()(examples)  # as stored; preprocessing included
```

Where pocketpipe is installed, `pocketpipe.load("this folder")` does the same.

## From C

`{header}` declares the functions; `{runner}` shows their use on a file of raw {entering}:

```sh
{build}
{run}
```

A program of yours includes the header, calls `{"pocketpipe_run_bytes" if stored else "pocketpipe_run"}(input, output)`
and is linked with `libmodel.a`{_with_threads(metadata.threads)}. `CMakeLists.txt` builds the runner with CMake, from
`libmodel.a`. `golden/`, if it is there, holds inputs for the runner and the outputs that it must give; `ctest`
compares, to the bit where the network is integers, else to `TOLERANCE` in `{runner}`.""",
    )


def _with_threads(threads: int) -> str:
    return "" if threads == 1 else " and `-lpthread`"


def _on_threads(threads: int) -> str:
    if threads == 1:
        return ""
    return (
        f"\n\n{threads} threads share each call, the caller's among them; results are the same to the bit as on one. A "
        "program with `libmodel.a` is linked with `-pthread`."
    )


def _rows(sizes: Mapping[str, int]) -> str:
    return "\n".join(f"| {what} | {size:,} |" for what, size in sizes.items())
