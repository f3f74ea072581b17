"""Schedule: the numbers by which a kernel of ours is cut into loops; by rule, or found by measuring (`tuning`)."""

from dataclasses import dataclass
from enum import Enum


class Order(Enum):
    """What goes outside."""

    CHANNELS = "tiles of channels: their weights stay in the cache"
    ROWS = "rows: their inputs stay in the cache"


@dataclass(frozen=True)
class Schedule:
    """A tile holds `pixels` times `vectors` registers of sums at most."""

    pixels: int
    vectors: int
    order: Order = Order.CHANNELS
    unroll: int = 1
    """Steps of a sum that follow each other without a jump."""
