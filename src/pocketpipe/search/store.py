"""TrialStore: what has been measured so far, on disk as it is measured, so that a killed search goes on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketpipe.plan import CompressionPlan


@dataclass(frozen=True)
class Tried:
    """What trying a plan gave: the plan as pinned, and its metric on the selection split."""

    plan: CompressionPlan
    score: float


@dataclass(frozen=True)
class Outcome:
    """A stored measurement: the pinned plan's JSON, its score, and the seconds that it took."""

    plan_json: str
    score: float
    seconds: float


class TrialStore:
    """Append-only JSON lines in `folder`/trials.jsonl, one a measurement, synced to disk before the search goes on.

    The folder belongs to one teacher and one selection split: a stored score is taken for what trying the same plan
    again would give. A last line that was torn by a kill is ignored, and measured again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "trials.jsonl"
        self._tried: dict[str, Outcome] = {}
        self._tuned: dict[str, float] = {}
        for entry in _whole_lines(self._path):
            self._remember(entry)

    def tried(self, proposal_json: str) -> Outcome | None:
        """What trying this plan (as projected, before pinning) gave, if it was tried."""
        return self._tried.get(proposal_json)

    def add_tried(self, proposal_json: str, outcome: Outcome) -> None:
        """Keep the outcome of a trial."""
        self._append({"proposal": proposal_json, **outcome.__dict__})

    def tuned(self, plan_json: str) -> float | None:
        """Score of this pinned plan after the short fine-tuning, if it had one."""
        return self._tuned.get(plan_json)

    def add_tuned(self, plan_json: str, score: float) -> None:
        """Keep the score of a finalist."""
        self._append({"tuned": plan_json, "score": score})

    def _remember(self, entry: dict[str, Any]) -> None:
        if "tuned" in entry:
            self._tuned[entry["tuned"]] = entry["score"]
        else:
            self._tried[entry["proposal"]] = Outcome(entry["plan_json"], entry["score"], entry["seconds"])

    def _append(self, entry: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The leading newline ends a line that a kill may have torn; empty lines are skipped on reading.
        with self._path.open("ab") as file:
            file.write(b"\n" + json.dumps(entry, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._remember(entry)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().split(b"\n"):
        try:
            entries.append(json.loads(line))
        except ValueError:  # empty, or torn by a kill
            continue
    return [entry for entry in entries if isinstance(entry, dict)]
