"""SearchSettings: how long and with what the search looks for a plan."""

from typing import Annotated, Any

from pydantic import Field

from pocketpipe.doors import Value
from pocketpipe.search.tuners.base import tuner_mistakes

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class SearchSettings(Value):
    """The `search` section of a configuration.

    >>> SearchSettings(trials=8).tuner
    'tpe'
    >>> SearchSettings(tuner="tpee").mistakes(where="search")  # doctest: +ELLIPSIS
    ["search.tuner: tuner 'tpee' is unknown; did you mean 'tpe'? ..."]
    """

    tuner: str = "tpe"
    """A name that pocketpipe knows, or your own as package.module:attribute."""
    tuner_options: dict[str, Any] = {}
    """Keyword arguments of the tuner's factory."""
    trials: Annotated[int, Field(ge=0)] = 24
    """Proposals of the tuner. The uniform plan comes on top."""
    controls: Annotated[int, Field(ge=0)] = 3
    """Random plans of the same budget, for comparison; they are never chosen."""
    ladder: tuple[Fraction, ...] = (0.25, 0.5, 0.75)
    """Uniform plans at relaxed budgets, as a fraction of the way from the dense network to the budget.

    They draw the front, and name the nearest plan that passes when the budget cannot be kept with the accuracy asked.
    """
    finalists: Annotated[int, Field(ge=1)] = 3
    """How many of the best trials get a short fine-tuning before one is chosen; a single one only beside a champion."""

    def mistakes(self, *, where: str) -> list[str]:
        """What is wrong with the choice of tuner, a line each; `where` is the key path of this section."""
        return tuner_mistakes(self.tuner, self.tuner_options, where=where)
