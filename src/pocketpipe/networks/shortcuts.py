"""Shortcut option A (He et al. 2016): no parameters; rows and columns are skipped, missing channels are zero."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PadShortcut(nn.Module):
    """(N, channels, H, W) -> (N, before + channels + after, H / stride, W / stride).

    >>> import torch
    >>> shortcut = PadShortcut(before=1, channels=2, after=1, stride=2)
    >>> shortcut(torch.ones(1, 2, 4, 4))[0, :, 0, 0].tolist()
    [0.0, 1.0, 1.0, 0.0]
    >>> shortcut.keep_channels(torch.tensor([1]), torch.tensor([0, 2]))
    >>> shortcut
    PadShortcut(before=1, channels=1, after=0, stride=2)
    """

    def __init__(self, *, before: int, channels: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.channels, self.after, self.stride = before, channels, after, stride

    def forward(self, x: Tensor) -> Tensor:
        """The input where its channels lie in the output, zeros around it."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def keep_channels(self, kept_in: Tensor, kept_out: Tensor) -> None:
        """Make room for just these channels of input and output (ascending indices): `compression.slimming` calls it.

        Raises ValueError if the output does not keep exactly the channels that the input keeps.
        """
        inside = (kept_out >= self.before) & (kept_out < self.before + self.channels)
        if (kept_out[inside] - self.before).tolist() != kept_in.tolist():
            raise ValueError(f"{self}: the output must keep the channels that the input keeps")
        self.before = int((kept_out < self.before).sum())
        self.channels = len(kept_in)
        self.after = len(kept_out) - self.before - self.channels

    def extra_repr(self) -> str:
        """Its four numbers."""
        return f"before={self.before}, channels={self.channels}, after={self.after}, stride={self.stride}"
