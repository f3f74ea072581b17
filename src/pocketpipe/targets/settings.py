"""CompileSettings: what is asked of compiling beyond the choice of targets."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pocketpipe.doors import Value

if TYPE_CHECKING:
    from pocketpipe.targets.base import Target

MOST_THREADS = 32


class TuneSettings(Value):
    """How much may be measured to find better schedules, for each target that runs on this host."""

    trials: Annotated[int, Field(ge=1)] = 24
    """Candidates for each distinct kernel of a network."""
    minutes: Annotated[float, Field(gt=0)] = 10.0
    """In all."""


class CompileSettings(Value):
    """The `compile` section of a configuration.

    >>> CompileSettings(tune={"trials": 8}).tune
    TuneSettings(trials=8, minutes=10.0)
    """

    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] = 1
    """That share the work of one example, on targets that have threads."""
    tune: TuneSettings | None = None
    """Null: schedules by rule alone."""

    def threads_of(self, target: "Target") -> int:
        """How many threads share an example on `target`: one where it has no more."""
        return self.threads if target.threaded else 1

    def mistakes(self, targets: Sequence["Target"], *, where: str) -> Iterator[str]:
        """What none of `targets` can do of this, a line each; `where` is the key path of this section."""
        if self.threads > 1 and targets and not any(target.threaded for target in targets):
            names = ", ".join(target.name for target in targets)
            yield f"{where}.threads: {self.threads}, but {names} run on one: set 1, or add a target that has threads"
