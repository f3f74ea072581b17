"""Mixing: training inputs that show two examples at once, so that a network is asked about what lies between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from pocketpipe.doors import Value
from pocketpipe.errors import UserError

if TYPE_CHECKING:
    from torch import Generator, Tensor

Alpha = Annotated[float, Field(gt=0.0)]
"""How the two share an input, Beta(alpha, alpha): 1 = any share is as likely; near 0, one of the two has almost all."""
Share = Annotated[float, Field(gt=0.0, le=1.0)]
"""Of the examples that are mixed; the others are shown alone."""


class _Mixing(Value, ABC):
    """Another example in each input, the target that of one of the two, drawn by what each shows.

    The papers weigh two losses by the shares; to draw one of the two targets by them has the same expectation at
    any loss (Huszar 2017, "mixup: Data-dependent data augmentation"), and no loss, metric or teacher has to know of it.
    """

    alpha: Alpha = 1.0
    share: Share = 0.5

    def mixed(self, inputs: Tensor, others: Tensor, generator: Generator) -> Tensor:
        """Stored inputs (n, ...), each with its one of `others` (drawn from the same examples) in it and still of its
        own target; of the same shape and dtype."""
        import torch

        seed = torch.randint(2**62, (), generator=generator, device=inputs.device)
        own = torch.from_numpy(self._own(tuple(inputs.shape), np.random.default_rng(int(seed)))).to(inputs.device)
        result = torch.lerp(others.float(), inputs.float(), own.expand(inputs.shape))
        return (result if inputs.is_floating_point() else result.round()).to(inputs.dtype)

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Raises UserError for inputs that cannot be mixed so."""

    def _own(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """What an example's own input counts, 0 to 1, to be broadcast to `shape` (n, ...); float32."""
        first = self._first(shape, random)
        shown = first.reshape(len(first), -1).mean(1)
        columns = (-1,) + (1,) * (len(shape) - 1)
        is_second = (random.random(len(first)) >= shown).reshape(columns)
        is_mixed = (random.random(len(first)) < self.share).reshape(columns)
        own: np.ndarray = np.where(is_mixed, np.where(is_second, 1 - first, first), 1).astype(np.float32)
        return own

    @abstractmethod
    def _first(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """What the first of the two counts in each input of a batch of `shape`."""


class Mixup(_Mixing):
    """The weighted mean of two inputs (Zhang et al. 2018)."""

    kind: Literal["mixup"]

    def _first(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        return random.beta(self.alpha, self.alpha, (shape[0],) + (1,) * (len(shape) - 1))


class CutMix(_Mixing):
    """A rectangle of one image within the other (Yun et al. 2019): its pixels have the statistics of whole images."""

    kind: Literal["cutmix"]

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Raises UserError for inputs that are no images (channels, height, width)."""
        if len(input_shape) != 3:
            raise UserError(f"mixing: cutmix is for images, and inputs have shape {input_shape}; use {{kind: mixup}}")

    def _first(self, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
        """1 outside a rectangle of the second's share, anywhere, cut off at the edges (section 3.1 there)."""
        count = shape[0]
        side = np.sqrt(1 - random.beta(self.alpha, self.alpha, count))
        rows, columns = (_within(length, side, random.random(count)) for length in shape[-2:])
        inside: np.ndarray = rows[:, None, :, None] & columns[:, None, None, :]
        return np.where(inside, 0.0, 1.0)


def _within(length: int, side: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """(n, length): which of so many pixels lie within a segment that is `side` of it and centred at `centre` of it."""
    pixels = (np.arange(length) + 0.5) / length
    near: np.ndarray = np.abs(pixels - centre[:, None]) < side[:, None] / 2
    return near


Mixing = Annotated[Mixup | CutMix, Field(discriminator="kind")]
