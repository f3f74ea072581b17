"""Is a delivery what it says it is, and where does it come from?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pocketpipe.delivery.folder import WITH_TIMES
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import METADATA_FILE
from pocketpipe.hashing import file_digest
from pocketpipe.lineage.ancestry import Made, ancestry, made_around
from pocketpipe.lineage.provenance import Provenance
from pocketpipe.storage import load_split

SOURCES = ("onnx", "plan", "train_data")
"""Hashes in the metadata of what the binary was made from; all others are of files in the folder, by name."""

OWN_FIGURES = "figures of the machine that compiled"

Status = Literal["unchanged", "changed", "missing", "no hash", "not compared"]


@dataclass(frozen=True)
class Finding:
    """What became of one file or source of a delivery.

    >>> print(Finding("model.so", "changed", "its SHA-256 is 12ab, the metadata says 34cd"))
    model.so: changed (its SHA-256 is 12ab, the metadata says 34cd)
    """

    what: str
    status: Status
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the delivery; what could not be compared does not."""
        return self.status not in ("changed", "missing")

    def __str__(self) -> str:
        return f"{self.what}: {self.status}{f' ({self.detail})' if self.detail else ''}"


def verify(delivery_folder: Path) -> list[Finding]:
    """Hold every file of a delivery folder, and its sources where they are at hand, against the metadata's hashes.

    Sources are looked for in the outputs around it. Raises UserError if the folder is no delivery folder.
    """
    hashes = DeliveryMetadata.read(delivery_folder).hashes
    delivered = {name: digest for name, digest in hashes.items() if name not in SOURCES}
    findings = [_compare(name, delivery_folder / name, digest) for name, digest in sorted(delivered.items())]
    findings += [
        Finding(name, "no hash", OWN_FIGURES if name in WITH_TIMES else "the metadata do not know this file")
        for name in _strangers(delivery_folder, delivered)
    ]
    sources = _sources_of(delivery_folder)
    for name in SOURCES:
        if name in hashes:
            findings.append(_compare_source(name, sources.get(name), hashes[name]))
    return findings


def trace(delivery_folder: Path, outputs: Path | None = None) -> list[str]:
    """Lines of text from a delivery back to its plan, its data and the code of each stage.

    `outputs`: where to look for the place it was made in, if the folder was copied away.
    Raises UserError if the folder is no delivery folder.
    """
    metadata = DeliveryMetadata.read(delivery_folder)
    compiled_for = f", compiled for {metadata.cpu}" if metadata.cpu else ""
    lines = [f"delivery: {metadata.network} for task {metadata.task}, target {metadata.target}{compiled_for}"]
    origin = made_around(delivery_folder) or _original(delivery_folder, outputs)
    if origin is None:
        lines += [f"{name}: SHA-256 {digest}" for name, digest in sorted(metadata.hashes.items()) if name in SOURCES]
        return [
            *lines,
            "made: unknown; this copy does not lie among the outputs of a run, so only hashes tell its origin",
        ]
    sources = _sources_of(origin.folder)
    for name in SOURCES:
        if name in metadata.hashes:
            finding = _compare_source(name, sources.get(name), metadata.hashes[name])
            place = f" {sources[name].relative_to(origin.root)}" if name in sources else ""
            lines.append(f"{name}: SHA-256 {metadata.hashes[name]}{place}: {finding.status}")
    return [*lines, *_stages(origin)]


def _compare(what: str, file: Path, expected: str) -> Finding:
    if not file.is_file():
        return Finding(what, "missing", f"no file {file}")
    return _judge(what, file_digest(file), expected)


def _compare_source(what: str, source: Path | None, expected: str) -> Finding:
    if source is None:
        return Finding(what, "not compared", "it is not at hand: this copy does not lie among the outputs of a run")
    if source.suffix == ".npz":  # data are known by their content, not by the file that holds them
        return _judge(what, load_split(source).digest, expected)
    return _compare(what, source, expected)


def _judge(what: str, digest: str, expected: str) -> Finding:
    if digest == expected:
        return Finding(what, "unchanged")
    return Finding(what, "changed", f"its SHA-256 is {digest}, the metadata say {expected}")


def _strangers(folder: Path, known: dict[str, str]) -> list[str]:
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in files if name != METADATA_FILE and name not in known)


def _sources_of(path: Path) -> dict[str, Path]:
    """Files of a delivery's sources, as far as they are there, by their name in the metadata."""
    made = made_around(path)
    if made is None:
        return {}
    family = ancestry(made)
    places = {
        "onnx": ("student_onnx", "student.onnx"),
        "plan": ("plan", "plan.json"),
        "train_data": ("splits", "train.npz"),
    }
    return {name: family[output].folder / file for name, (output, file) in places.items() if output in family}


def _original(copy: Path, outputs: Path | None) -> Made | None:
    """The output that `copy` was copied from: known by equal metadata, which hold the hashes of everything."""
    if outputs is None:
        return None
    content = (copy / METADATA_FILE).read_bytes()
    for file in sorted(outputs.glob(f"*/*/*/**/{METADATA_FILE}")):
        if file.read_bytes() == content and (made := made_around(file.parent)) is not None:
            return made
    return None


def _stages(origin: Made) -> Iterator[str]:
    """One line for each stage that took part, last one first: what ran when, of which code."""
    by_stage: dict[str, Provenance] = {}
    for made in ancestry(origin).values():
        by_stage.setdefault(made.provenance.stage, made.provenance)
    for stage, provenance in by_stage.items():
        engines = ", ".join(f"{name} {version}" for name, version in provenance.engines.items())
        parts = [
            f"stage {stage}: fingerprint {provenance.fingerprint}",
            f"made {provenance.when:%Y-%m-%d %H:%M:%S} UTC",
            f"run {provenance.run}" if provenance.run else "",
            f"commit {provenance.commit}" if provenance.commit else "not under git",
            f"code {provenance.code[:12]}" if provenance.code else "",
            f"Python {provenance.python} on {provenance.platform}",
            engines,
        ]
        yield ", ".join(part for part in parts if part)
