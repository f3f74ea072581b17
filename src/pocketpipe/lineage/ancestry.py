"""From an output back to the outputs that it was made from, by the provenance files beside them.

Outputs lie at `<root>/<stage>/<name>/<fingerprint>/`, each with its `provenance.json`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pocketpipe.lineage.provenance import FILE_NAME, Provenance, read_provenance


@dataclass(frozen=True)
class Made:
    """An output on disk: its folder, and where it comes from."""

    folder: Path
    provenance: Provenance

    @property
    def name(self) -> str:
        """The output's name in the catalog."""
        return self.folder.parent.name

    @property
    def root(self) -> Path:
        """The folder under which all outputs of this house lie."""
        return self.folder.parents[2]

    def inputs(self) -> Iterator["Made"]:
        """The outputs that it was made from and that are still there."""
        for name, fingerprint in sorted(self.provenance.inputs.items()):
            for file in sorted(self.root.glob(f"*/{name}/{fingerprint}/{FILE_NAME}")):
                yield Made(file.parent, read_provenance(file.parent))


def made_around(path: Path) -> Made | None:
    """The output that `path` lies in, or None if it lies in none (it was copied away)."""
    path = path.resolve()
    for folder in (path, *path.parents):
        if (folder / FILE_NAME).is_file() and len(folder.parents) > 2 and _is_ours(folder / FILE_NAME):
            return Made(folder, read_provenance(folder))
    return None


def _is_ours(file: Path) -> bool:
    """Whether a file of that name is one of this house; others call files so, too."""
    try:
        content = json.loads(file.read_text())
    except ValueError:
        return False
    return isinstance(content, dict) and "fingerprint" in content


def ancestry(made: Made) -> dict[str, Made]:
    """`made` and everything that it was made from, by name: each before those that it was made from itself."""
    finished: dict[str, Made] = {}

    def visit(output: Made) -> None:
        for parent in output.inputs():
            if parent.name not in finished:
                visit(parent)
        finished[output.name] = output

    visit(made)
    return dict(reversed(finished.items()))
