"""A gated recurrent unit (Cho et al. 2014) in primitive operators, unrolled, and a classifier on its last state.

There is no recurrent operator in it: compilers that have none run it, and every gate is a layer that can be thinned.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS


class Cell(nn.Module):
    """h' = z h + (1 - z) n, with n = tanh(W x + U (r h)) and gates r, z = sigmoid(W x + U h).

    The bias is in W. No size is stored: it is that of the weights.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.input_reset = nn.Linear(features, hidden)
        self.input_update = nn.Linear(features, hidden)
        self.input_new = nn.Linear(features, hidden)
        self.hidden_reset = nn.Linear(hidden, hidden, bias=False)
        self.hidden_update = nn.Linear(hidden, hidden, bias=False)
        self.hidden_new = nn.Linear(hidden, hidden, bias=False)

    def first(self, x: Tensor) -> Tensor:
        """The state (N, hidden) after the first step: as `forward` from a state of zeros, without its products."""
        update: Tensor = self.input_update(x).sigmoid()
        new: Tensor = self.input_new(x).tanh()
        return (1 - update) * new

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(N, features) and state (N, hidden) -> next state (N, hidden)."""
        reset: Tensor = (self.input_reset(x) + self.hidden_reset(state)).sigmoid()
        update: Tensor = (self.input_update(x) + self.hidden_update(state)).sigmoid()
        new: Tensor = (self.input_new(x) + self.hidden_new(reset * state)).tanh()
        return update * state + (1 - update) * new


class GRU(nn.Module):
    """The cell over all steps of a sequence, then a linear layer on the last state."""

    def __init__(self, features: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.cell = Cell(features, hidden)
        self.classifier = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, steps, features) -> logits (N, outputs)."""
        state = self.cell.first(x[:, 0])
        for step in range(1, x.shape[1]):
            state = self.cell(x[:, step], state)
        logits: Tensor = self.classifier(state)
        return logits


@NETWORKS.register("gru")
def gru(input_shape: tuple[int, ...], outputs: int, *, hidden: Annotated[int, Field(gt=0)] = 64) -> nn.Module:
    """Input (steps, features). Raises UserError for another shape."""
    if len(input_shape) != 2:
        raise UserError(f"network 'gru' reads sequences (steps, features); this task's inputs are {input_shape}")
    return GRU(input_shape[1], outputs, hidden)
