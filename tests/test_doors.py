"""Options of a user's factory, whose module may import for type checkers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketpipe.doors import option_mistakes

if TYPE_CHECKING:
    from decimal import Decimal


def build(root: Decimal, *, size: int = 32, share: Decimal | None = None) -> Decimal: ...


class Loss:
    """A class that pydantic knows nothing of."""


def trained(root: str, *, loss: Loss | None = None, size: int = 3) -> None: ...


def test_an_option_may_be_anything() -> None:
    assert option_mistakes(trained, {"size": 4}, where="network.options") == []
    assert option_mistakes(trained, {"loss": Loss()}, where="network.options") == []


def test_only_what_options_may_be_is_looked_up_and_as_far_as_it_is_there() -> None:
    assert option_mistakes(build, {"size": 3, "share": "any"}, where="task.options") == []
    (line,) = option_mistakes(build, {"size": "big"}, where="task.options")
    assert line.startswith("task.options.size: 'big': Input should be a valid integer")
