"""What a delivered network takes on the way (its file, packed if that is smaller) and at rest (the ONNX file)."""

from pocketpipe.cost import Cost
from pocketpipe.errors import UserError
from pocketpipe.exporting.cost import cost_of
from pocketpipe.exporting.packing import SUFFIX, unpack


def packed_name(onnx_name: str) -> str:
    """What the packed form of a file is called.

    >>> packed_name("student.onnx")
    'student.packed.safetensors'
    """
    return onnx_name.removesuffix(".onnx") + SUFFIX


def delivered_cost(onnx: bytes, packed: bytes, name: str) -> Cost:
    """Cost of one example through the ONNX file called `name`, with the bytes of the smaller of both files.

    Raises UserError if `packed` does not unpack to `onnx`.
    """
    if unpack(packed) != onnx:
        raise UserError(f"{packed_name(name)} does not unpack to {name}: delete the folder export and run again")
    smaller = min((onnx, name), (packed, packed_name(name)), key=lambda file: len(file[0]))
    measured = {"file_bytes": len(smaller[0]), "resident_bytes": len(onnx), "transport_file": smaller[1]}
    return cost_of(onnx, name).model_copy(update=measured)
