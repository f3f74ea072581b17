"""Packing and unpacking files: names, and what may not be overwritten."""

from pathlib import Path

from pocketpipe.errors import UserError
from pocketpipe.exporting.bits import Damaged
from pocketpipe.exporting.packing import SUFFIX, Packed, packed, unpack
from pocketpipe.exporting.protobuf import WeightsElsewhere, tensor_spans
from pocketpipe.exporting.transport import packed_name
from pocketpipe.storage import replacing


def pack_file(file: Path, output: Path | None, *, overwrite: bool) -> tuple[Packed, Path]:
    """(what was stored how, where). Default output: `NAME.packed.safetensors` beside `NAME.onnx`.

    Raises UserError for what is no ONNX file, and for an output that is there already.
    """
    output = output or file.with_name(packed_name(file.name))
    _refuse_existing(output, file, overwrite)
    content = file.read_bytes()
    try:
        tensor_spans(content)
    except WeightsElsewhere as error:
        raise UserError(f"{file}: {error}; save it in one file (onnx.save_model) first") from error
    except Damaged as error:
        raise UserError(f"{file}: not an ONNX file, or not the whole of it ({error})") from error
    made = packed(content)
    _write(output, made.data)
    return made, output


def unpack_file(file: Path, output: Path | None, *, overwrite: bool) -> Path:
    """Where the ONNX file was written; default `NAME.onnx` beside `NAME.packed.safetensors`. Raises UserError."""
    output = output or file.with_name(file.name.removesuffix(SUFFIX).removesuffix(".safetensors") + ".onnx")
    _refuse_existing(output, file, overwrite)
    try:
        content = unpack(file.read_bytes())
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    _write(output, content)
    return output


def _refuse_existing(output: Path, source: Path, overwrite: bool) -> None:
    if output.resolve() == source.resolve():
        raise UserError(f"{output}: input and output are the same file; give another one with -o")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: there already; overwrite it with --force, or give another name with -o")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it first")


def _write(output: Path, content: bytes) -> None:
    try:
        with replacing(output) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from error
