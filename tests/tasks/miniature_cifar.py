"""A miniature of CIFAR-10 in its real formats: 20 images a batch, as a folder or as the archive."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

TRAIN = [f"data_batch_{number}" for number in range(1, 6)]
FOLDER = "cifar-10-batches-py"


def batch(seed: int, count: int = 20) -> dict[bytes, object]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 3072), np.uint8)
    return {b"batch_label": b"a batch", b"labels": [i % 10 for i in range(count)], b"data": images}


def files(protocol: int = 2) -> dict[str, bytes]:
    """Contents by file name, pickled as published (protocol 2)."""
    contents = {name: pickle.dumps(batch(seed), protocol) for seed, name in enumerate([*TRAIN, "test_batch"])}
    return {**contents, "batches.meta": pickle.dumps({b"label_names": [b"airplane"]}, protocol)}


def write_folder(data_root: Path, contents: dict[str, bytes] | None = None) -> Path:
    folder = data_root / FOLDER
    folder.mkdir(parents=True)
    for name, content in (contents or files()).items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(
    data_root: Path, contents: dict[str, bytes] | None = None, more: Iterable[tarfile.TarInfo] = ()
) -> str:
    """Write the archive and return its MD5; `more` are members without content, put first."""
    path = data_root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in more:
            tar.addfile(member)
        for name, content in (contents or files()).items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()
