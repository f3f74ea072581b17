"""The frozen networks that a student learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketpipe.compression.distillation import merged_logits
from pocketpipe.training.features import Response, Watched


class Teachers:
    """One or several teachers that see the same view; features come from the first.

    No submodule of what is trained: their weights are in no checkpoint and no optimizer.
    """

    def __init__(self, networks: Sequence[nn.Module], temperature: float, points: Sequence[str] = ()) -> None:
        self._networks = [network.requires_grad_(False).eval() for network in networks]
        self._temperature = temperature
        self._first = Watched(self._networks[0], points)

    def to(self, device: torch.device) -> None:
        """Move them."""
        for network in self._networks:
            network.to(device)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Response:
        """Outputs as float32 logits, those of several merged into one teacher's at the temperature; features."""
        first, features = self._first.forward(inputs)
        outputs = [first.float(), *(network(inputs).float() for network in self._networks[1:])]
        return Response(merged_logits(outputs, self._temperature), features)
