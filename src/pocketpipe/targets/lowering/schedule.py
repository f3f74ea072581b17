"""Schedule: the numbers by which a kernel of ours is cut into loops; by rule, or found by measuring (`tuning`)."""

from dataclasses import dataclass
from enum import Enum


class Order(Enum):
    """What goes outside: tiles of channels, whose weights stay in the cache, or rows, whose inputs do."""

    CHANNELS = "channels"
    ROWS = "rows"


@dataclass(frozen=True)
class Schedule:
    """A tile holds `pixels` times `vectors` registers of sums at most."""

    pixels: int
    vectors: int
    order: Order = Order.CHANNELS
    unroll: int = 1
    """Steps of a sum that follow each other without a jump."""
