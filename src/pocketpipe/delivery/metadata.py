"""DeliveryMetadata: what a delivered binary is, from which files it was made, and how its inputs are prepared."""

from pathlib import Path

import numpy as np
from pydantic import ValidationError

from pocketpipe.delivery.integers import Integers
from pocketpipe.delivery.model import INTEGER_KINDS, METADATA_FILE
from pocketpipe.delivery.resources import Resources
from pocketpipe.doors import Value, describe_validation
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.task import Preprocessing


class Footprint(Value):
    """What the compiled model takes on the device, in bytes."""

    weights: int
    arena: int
    """Working memory of one inference: all values between operators, planned at compile time."""
    library: int
    """Size of the library file: code, weights and tables."""
    flash: int | None = None
    """All bytes that lie on the device where that is not the library's size: text, constants and initial data."""
    ram: int | None = None
    """All memory that is written to, static data and stack included, where that is known; else the arena is."""


class DeliveryMetadata(Value):
    """The facts of one delivery folder. Holds no time and no path, so that equal inputs give equal bytes.

    >>> metadata = DeliveryMetadata(task="digits", network="resnet8", target="x86_64", input_shape=(1, 8, 8),
    ...                             input_dtype="uint8", preprocessing=Preprocessing(scale=1 / 16), labels=("0", "1"))
    >>> DeliveryMetadata.model_validate_json(metadata.model_dump_json()) == metadata
    True
    """

    task: str
    network: str
    target: str
    input_shape: tuple[int, ...]
    """One stored example, without the batch axis."""
    input_dtype: str = "float32"
    """NumPy name of the type in which examples are stored, before preprocessing."""
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    """One name for each output."""
    hashes: dict[str, str] = {}
    """SHA-256 of what the binary was made from: onnx, plan, data; the target adds the delivered files."""
    output_shape: tuple[int, ...] = ()
    """One output, without the batch axis; the target fills it in."""
    threads: int = 1
    """That share the work of one example; what runs on the caller's alone has 1."""
    tuned: int = 0
    """Kernels whose schedule was measured, rather than made by rule."""
    cpu: str = ""
    """What the code was compiled for, in LLVM's words; the target fills it in, and what follows."""
    cpu_flags: tuple[str, ...] = ()
    """Features that the running CPU must have, as /proc/cpuinfo names them."""
    engines: dict[str, str] = {}
    """Versions of the engines that made the binary."""
    footprint: Footprint | None = None
    integers: Integers | None = None
    """What a delivery in C takes and gives; None where numbers are float32 on both sides."""
    resources: Resources | None = None
    """What an FPGA would spend on it."""

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Raise UserError if a network that takes `shape`, batch included, does not take one example, prepared."""
        if shape != (1, *self.input_shape):
            raise UserError(
                f"the ONNX file takes {shape}, but one example of task {self.task!r} is {self.input_shape}: "
                "export it with batch 1"
            )
        for name in ("mean", "std"):
            if (count := len(getattr(self.preprocessing, name))) not in (1, self.input_shape[0]):
                raise UserError(
                    f"preprocessing.{name} has {count} numbers, but an example has {self.input_shape[0]} along its "
                    "first axis: give one for all, or one for each"
                )

    def check_examples(self, examples: np.ndarray) -> None:
        """Raise UserError if these are no stored examples (N, *input_shape)."""
        if examples.shape[1:] != self.input_shape:
            expected = ", ".join(map(str, self.input_shape))
            raise UserError(f"examples have shape {examples.shape}, expected (N, {expected})")
        stored = np.dtype(self.input_dtype)
        if np.issubdtype(stored, np.integer) and examples.dtype.kind not in INTEGER_KINDS:
            prepared = " (run_prepared takes what is preprocessed already)" if self.integers is None else ""
            raise UserError(
                f"examples are {examples.dtype}, expected {stored} as stored: the model scales them itself{prepared}"
            )

    def write(self, folder: Path) -> None:
        """Write `metadata.json` into `folder`."""
        (folder / METADATA_FILE).write_text(self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "DeliveryMetadata":
        """Read what `write` wrote. Raises UserError if `folder` is no delivery folder."""
        file = folder / METADATA_FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{folder} is no delivery folder: it has no {METADATA_FILE}") from error
        except ValidationError as error:
            raise Mistakes(describe_validation(error, where=str(file))) from error


def read_by(deliveries: Path) -> list[tuple[tuple[int, ...], Preprocessing]]:
    """Which examples the folders in `deliveries` were made for: shape and preprocessing, each once."""
    found = [DeliveryMetadata.read(file.parent) for file in sorted(deliveries.glob(f"*/{METADATA_FILE}"))]
    return list(dict.fromkeys((each.input_shape, each.preprocessing) for each in found))
