"""Records of what was measured: a line of JSON each, found again by workload and processor."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from pocketpipe.doors import Value
from pocketpipe.lineage.fingerprint import fingerprint
from pocketpipe.targets.lowering.schedule import Order

FILE = "records.jsonl"


class Tile(Value):
    """A schedule of our own (`lowering.schedule.Schedule`)."""

    pixels: int
    vectors: int
    order: Order
    unroll: int


class Record(Value):
    """The outcome for one workload on one processor. Without `tile` and `trace` the rule's kernel was not beaten."""

    workload: str
    """In words."""
    key: str
    trials: int
    """Candidates that were asked for; fewer were measured only where there are no more."""
    rule_us: float | None = None
    """Of the rule's kernel and of the best candidate: median microseconds of the last interleaved run; None where no
    candidate looked faster at first."""
    best_us: float | None = None
    tile: Tile | None = None
    trace: str | None = None
    """MetaSchedule's, as JSON."""


class Records:
    """The records in a folder. Of equal trials the later line counts; one that is none of ours is passed over."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._found: dict[str, Record] = {}
        for record in self._read():
            self._take(record)

    def find(self, key: str, trials: int) -> Record | None:
        """What was found for `key` with at least so many trials."""
        record = self._found.get(key)
        return record if record is not None and record.trials >= trials else None

    def add(self, record: Record) -> None:
        """Write it behind the others at once: what is measured is not lost."""
        self._take(record)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(record.model_dump_json() + "\n")

    def _take(self, record: Record) -> None:
        """One that had fewer trials, as time was up, does not take the place of one that had more."""
        known = self._found.get(record.key)
        if known is None or record.trials >= known.trials:
            self._found[record.key] = record

    def _read(self) -> Iterator[Record]:
        for line in self.file.read_text().splitlines() if self.file.is_file() else ():
            try:
                yield Record.model_validate_json(line)
            except ValidationError:  # a line cut off by a crash, or of another version
                continue


def key_of(shape: object, code: str, processor: str, engine: str) -> str:
    """Of a workload: with the code that the rule makes for it, so that a better rule is measured against anew."""
    return fingerprint(shape=repr(shape), code=code, processor=processor, engine=engine)
