"""CIFAR-10's published files, read without trusting them: pickles by an allow-list, archives without extraction."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from pocketpipe.errors import UserError
from pocketpipe.hashing import file_digest

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
"""As published at https://www.cs.toronto.edu/~kriz/cifar.html."""
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILE = "test_batch"
FILES = (*TRAIN_FILES, TEST_FILE)

IMAGE_SHAPE = (3, 32, 32)

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
"""What a pickled array needs, as written by old and new NumPy in any protocol."""

Batch = tuple[np.ndarray, np.ndarray]
"""Images (N, 3, 32, 32) uint8 and labels (N,) int64."""


def find_source(data_root: Path) -> Path:
    """The folder of batches or, where there is none, the archive. Raises UserError if neither is there."""
    for candidate in (data_root / FOLDER, data_root / ARCHIVE):
        if candidate.exists():
            return candidate
    raise UserError(
        f"CIFAR-10: neither {FOLDER}/ nor {ARCHIVE} is in {data_root}; "
        "`pocketpipe download cifar10` fetches it, or set POCKETPIPE_DATA to the folder that holds it"
    )


def content_digest(source: Path) -> str:
    """SHA-256 over the batch files of a folder, or over the archive: about 0.2 s."""
    files = [source / name for name in FILES] if source.is_dir() else [source]
    return hashlib.sha256(b"".join(bytes.fromhex(_file_hash(file, "sha256")) for file in files)).hexdigest()


def read_batches(source: Path, *, archive_md5: str = ARCHIVE_MD5) -> tuple[Batch, Batch]:
    """(train, test) from a folder or an archive, in stored order. Raises UserError that names the file."""
    contents = _read_folder(source) if source.is_dir() else _read_archive(source, archive_md5)
    batches = {name: _parse_batch(content, f"{source.name}/{name}") for name, content in contents.items()}
    images, labels = zip(*(batches[name] for name in TRAIN_FILES), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), batches[TEST_FILE]


def _read_folder(folder: Path) -> dict[str, bytes]:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"CIFAR-10: {folder} lacks {', '.join(missing)}; unpack {ARCHIVE} again")
    return {name: (folder / name).read_bytes() for name in FILES}


def _read_archive(archive: Path, md5: str) -> dict[str, bytes]:
    """The batch files' contents. Nothing is written to disk; a member that points elsewhere is refused."""
    found = _file_hash(archive, "md5")
    if found != md5:
        raise UserError(
            f"CIFAR-10: {archive} has MD5 {found} instead of {md5}: it is incomplete or altered; "
            "delete it and fetch it again (`pocketpipe download cifar10`)"
        )
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _refuse_escape(member, archive)
                path = PurePosixPath(member.name)
                if path.name in FILES and path.parent.name == FOLDER and member.isfile():
                    stream = tar.extractfile(member)
                    assert stream is not None, "a regular file has a stream"
                    contents[path.name] = stream.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"CIFAR-10: {archive} cannot be read ({error}); fetch it again") from error
    missing = [name for name in FILES if name not in contents]
    if missing:
        raise UserError(f"CIFAR-10: {archive} lacks {', '.join(missing)} in {FOLDER}/; fetch it again")
    return contents


def _refuse_escape(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise UserError(
            f"CIFAR-10: {archive} is refused: member {member.name!r} is a link, a device or points outside "
            "its own folder; the published archive has no such member"
        )


class _AllowList(pickle.Unpickler):
    """Builds arrays and plain values; any other object, and so any call, is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which a data set has no use for")
        return super().find_class(module_name, global_name)


def _unpickle(stream: BinaryIO) -> Any:
    return _AllowList(stream, encoding="bytes").load()


def _parse_batch(content: bytes, name: str) -> Batch:
    try:
        batch = _unpickle(io.BytesIO(content))
        images = np.require(batch[b"data"], requirements=["C_CONTIGUOUS", "WRITEABLE"])
        labels = np.asarray(batch[b"labels"], np.int64)
    except Exception as error:  # a damaged pickle can raise anything
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise UserError(f"CIFAR-10: {name} is not a CIFAR-10 batch: {reason}") from error
    if images.dtype != np.uint8 or images.shape != (len(labels), 3072):
        raise UserError(
            f"CIFAR-10: {name} holds {images.dtype} data of shape {images.shape} and {len(labels)} labels; "
            "expected uint8 (N, 3072) and N labels"
        )
    if not len(labels) or labels.min() < 0 or labels.max() > 9:
        raise UserError(f"CIFAR-10: {name} has no images, or labels outside 0..9")
    return images.reshape(-1, *IMAGE_SHAPE), labels


def _file_hash(file: Path, algorithm: str) -> str:
    try:
        return file_digest(file, algorithm)
    except OSError as error:
        raise UserError(f"CIFAR-10: cannot read {file}: {error.strerror or error}") from error
