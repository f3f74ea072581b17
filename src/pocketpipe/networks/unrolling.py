"""torch's recurrent modules as linear layers that are called for each step, which every target runs.

`unrolled(network)` is for a factory of one's own: what it returns computes the same, takes the same weights files, and
its gates are layers that can be thinned, sparsified and quantized.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pocketpipe.errors import UserError

FORWARDS = [each.forward for each in (nn.GRU, nn.LSTM, nn.RNN, nn.GRUCell, nn.LSTMCell, nn.RNNCell)]
"""Those that are written out here."""
State = tuple[Tensor, ...]
"""(N, hidden) each: an LSTM has its output and its memory, the others their output alone."""


class Cell(nn.Module):
    """One step of one layer in one direction. Each gate has a layer for the input and one for the state.

    torch adds both layers' biases in most gates: there the state's layer has none.
    """

    gates: ClassVar[tuple[str, ...]]
    """In the order in which torch keeps them."""
    own_bias: ClassVar[tuple[str, ...]] = ()
    """Gates whose state's layer has a bias of its own."""

    def __init__(self, features: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        for gate in self.gates:
            self.add_module(f"input_{gate}", nn.Linear(features, hidden, bias=bias))
            self.add_module(f"hidden_{gate}", nn.Linear(hidden, hidden, bias=bias and gate in self.own_bias))

    @abstractmethod
    def first(self, x: Tensor) -> State:
        """(N, features) -> the state after it, from zeros: without the products that zeros make nothing of."""

    @abstractmethod
    def step(self, x: Tensor, state: State) -> State:
        """(N, features) and the state before it -> the state after it."""

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """(N, features) -> the state after it."""
        return self.first(x) if state is None else self.step(x, state)

    @property
    def hidden_size(self) -> int:
        """As the weights have it."""
        return self.layer(f"input_{self.gates[0]}").out_features

    def layer(self, name: str) -> nn.Linear:
        """`input_reset` and so on."""
        return cast(nn.Linear, getattr(self, name))

    def reads(self, gate: str, x: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(N, hidden): what the gate makes of the input, and of the state if there is one, before its function."""
        made: Tensor = self.layer(f"input_{gate}")(x)
        return made if hidden is None else made + self.layer(f"hidden_{gate}")(hidden)

    def translated(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This cell's state of torch's `weight_ih`, `weight_hh` and, with biases, `bias_ih`, `bias_hh`."""
        parts = {name: tensor.chunk(len(self.gates)) for name, tensor in weights.items()}
        found = {}
        for place, gate in enumerate(self.gates):
            found[f"input_{gate}.weight"] = parts["weight_ih"][place]
            found[f"hidden_{gate}.weight"] = parts["weight_hh"][place]
            if "bias_ih" in parts and gate in self.own_bias:
                found[f"input_{gate}.bias"] = parts["bias_ih"][place]
                found[f"hidden_{gate}.bias"] = parts["bias_hh"][place]
            elif "bias_ih" in parts:
                found[f"input_{gate}.bias"] = parts["bias_ih"][place] + parts["bias_hh"][place]
        return found


class GRUCell(Cell):
    """As torch has it: the reset gate acts on the state's product, bias included.

    >>> GRUCell(4, 6, bias=True)(torch.zeros(2, 4))[0].shape
    torch.Size([2, 6])
    """

    gates = ("reset", "update", "new")
    own_bias = ("new",)

    def first(self, x: Tensor) -> State:
        """(1 - z) n, with n = tanh(W x + r b)."""
        update, new = self.reads("update", x).sigmoid(), self.reads("new", x)
        bias = self.layer("hidden_new").bias
        if bias is not None:
            new = new + self.reads("reset", x).sigmoid() * bias
        return ((1 - update) * new.tanh(),)

    def step(self, x: Tensor, state: State) -> State:
        """z h + (1 - z) n, with n = tanh(W x + r (U h + b))."""
        (hidden,) = state
        reset, update = self.reads("reset", x, hidden).sigmoid(), self.reads("update", x, hidden).sigmoid()
        new = (self.reads("new", x) + reset * self.layer("hidden_new")(hidden)).tanh()
        return (update * hidden + (1 - update) * new,)


class LSTMCell(Cell):
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000."""

    gates = ("input", "forget", "cell", "output")

    def first(self, x: Tensor) -> State:
        """Nothing to forget."""
        memory = self.reads("input", x).sigmoid() * self.reads("cell", x).tanh()
        return self.reads("output", x).sigmoid() * memory.tanh(), memory

    def step(self, x: Tensor, state: State) -> State:
        """(output, memory)."""
        hidden, memory = state
        taken, kept = self.reads("input", x, hidden).sigmoid(), self.reads("forget", x, hidden).sigmoid()
        memory = kept * memory + taken * self.reads("cell", x, hidden).tanh()
        return self.reads("output", x, hidden).sigmoid() * memory.tanh(), memory


class TanhCell(Cell):
    """Elman 1990."""

    gates = ("new",)

    def first(self, x: Tensor) -> State:
        """From zeros."""
        return (self.bounded(self.reads("new", x)),)

    def step(self, x: Tensor, state: State) -> State:
        """tanh(W x + U h)."""
        return (self.bounded(self.reads("new", x, *state)),)

    def bounded(self, x: Tensor) -> Tensor:
        """The function of the cell."""
        return x.tanh()


class ReluCell(TanhCell):
    """The same with ReLU."""

    def bounded(self, x: Tensor) -> Tensor:
        """The function of the cell."""
        return x.relu()


class SingleStep(nn.Module):
    """Stands for torch's `nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell`."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    @property
    def hidden_size(self) -> int:
        """As the weights have it: it may have been thinned."""
        return self.cell.hidden_size

    def forward(self, x: Tensor, hx: Tensor | State | None = None) -> Tensor | State:
        """(N, features) -> (N, hidden); an LSTM's takes and gives a pair."""
        state = None if hx is None else _as_state(hx)
        made: State = self.cell(x, state)
        return made if len(made) > 1 else made[0]

    def take_names_of_torch(self, state: dict[str, Tensor], prefix: str) -> None:
        """Give what torch's module would have under `prefix` in `state` the names, and the form, that it has here."""
        _translate(self.cell, state, prefix, "", f"{prefix}cell.")


class Unrolled(nn.Module):
    """Stands for torch's `nn.LSTM`, `nn.GRU` or `nn.RNN`: all layers and directions over all steps."""

    def __init__(self, cells: Sequence[Cell], *, directions: int, batch_first: bool, dropout: float) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        """Layer by layer, the forward direction first."""
        self.dropout = nn.Dropout(dropout)
        self.directions, self.batch_first = directions, batch_first
        self.num_layers, self.bidirectional = len(cells) // directions, directions == 2

    @property
    def hidden_size(self) -> int:
        """As the weights have it: it may have been thinned."""
        return cast(Cell, self.cells[0]).hidden_size

    def flatten_parameters(self) -> None:
        """Nothing: they are no one's but the layers'. Networks call it before they call torch's module."""

    def forward(self, x: Tensor, hx: Tensor | State | None = None) -> tuple[Tensor, Tensor | State]:
        """As torch's: (N, steps, features), or steps first -> (outputs at all steps, state after the last).

        Raises UserError for what is no batch of sequences of one length.
        """
        if not hasattr(x, "ndim") or x.ndim != 3:
            raise UserError("a recurrent module that is unrolled takes batches of sequences of one length: 3 axes")
        axis = 1 if self.batch_first else 0
        steps = [x.select(axis, step) for step in range(x.shape[axis])]
        before = None if hx is None else _as_state(hx)
        last: list[State] = []
        for layer in range(0, len(self.cells), self.directions):
            if layer:
                steps = [self.dropout(step) for step in steps]
            runs = []
            for direction in range(self.directions):
                at = layer + direction
                state = None if before is None else tuple(each[at] for each in before)
                states = _run(cast(Cell, self.cells[at]), steps[::-1] if direction else steps, state)
                last.append(states[-1])
                runs.append([state[0] for state in (states[::-1] if direction else states)])
            steps = runs[0] if len(runs) == 1 else [torch.cat(pair, 1) for pair in zip(*runs, strict=True)]
        after = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        return torch.stack(steps, axis), after if len(after) > 1 else after[0]

    def take_names_of_torch(self, state: dict[str, Tensor], prefix: str) -> None:
        """Give what torch's module would have under `prefix` in `state` the names, and the form, that it has here."""
        for place, cell in enumerate(self.cells):
            layer, direction = divmod(place, self.directions)
            suffix = f"_l{layer}{'_reverse' if direction else ''}"
            _translate(cast(Cell, cell), state, prefix, suffix, f"{prefix}cells.{place}.")


def _as_state(hx: Tensor | Sequence[Tensor]) -> State:
    """An LSTM is given two, the others one."""
    return tuple(hx) if isinstance(hx, list | tuple) else (cast(Tensor, hx),)


def _run(cell: Cell, steps: Sequence[Tensor], state: State | None) -> list[State]:
    """The states after each step."""
    states = []
    for x in steps:
        state = cell(x, state)
        states.append(state)
    return states


def _translate(cell: Cell, state: dict[str, Tensor], prefix: str, suffix: str, own: str) -> None:
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    found = {name: state.pop(f"{prefix}{name}{suffix}") for name in names if f"{prefix}{name}{suffix}" in state}
    if {"weight_ih", "weight_hh"} <= found.keys():
        state.update({f"{own}{name}": tensor for name, tensor in cell.translated(found).items()})


def unrolled(network: nn.Module) -> nn.Module:
    """`network` with its recurrent modules and cells replaced by linear layers called step by step, weights included.

    The network itself is changed, unless it is such a module. Raises UserError for an LSTM with projections.
    """
    replaced: dict[nn.Module, nn.Module | None] = {}
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if module not in replaced:
            replaced[module] = _replacement(path, module)
        made = replaced[module]
        if made is None:
            continue
        if not path:
            return made
        network.set_submodule(path, made)
    return network


def _with_weights(made: Unrolled | SingleStep, module: nn.RNNBase | nn.RNNCellBase) -> Unrolled | SingleStep:
    """The weights as `module` computes with them, also where something lies on them (weight norm)."""
    stored = (name for name in dir(module) if name.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")))
    state = {name: value.detach() for name in stored if isinstance(value := getattr(module, name), Tensor)}
    made.take_names_of_torch(state, "")
    made.load_state_dict({name: state[name] for name in made.state_dict()})
    return made.train(module.training)


def _replacement(path: str, module: nn.Module) -> Unrolled | SingleStep | None:
    """What stands for it; None for all that is not recurrent, or has a forward of its own."""
    if not (isinstance(module, nn.RNNBase | nn.RNNCellBase) and type(module).forward in FORWARDS):
        return None
    if isinstance(module, nn.RNNCellBase):
        cell = _kind(module)(module.input_size, module.hidden_size, bias=module.bias)
        return _with_weights(SingleStep(cell), module)
    if module.proj_size:
        raise UserError(
            f"{path or 'network'}: an LSTM with projections (proj_size) cannot be unrolled; set proj_size=0"
        )
    directions = 2 if module.bidirectional else 1
    inputs = [module.input_size, *[directions * module.hidden_size] * (module.num_layers - 1)]
    cells = [_kind(module)(each, module.hidden_size, bias=module.bias) for each in inputs for _ in range(directions)]
    made = Unrolled(cells, directions=directions, batch_first=module.batch_first, dropout=module.dropout)
    return _with_weights(made, module)


def _kind(module: nn.RNNBase | nn.RNNCellBase) -> type[Cell]:
    match module:
        case nn.GRU() | nn.GRUCell():
            return GRUCell
        case nn.LSTM() | nn.LSTMCell():
            return LSTMCell
        case _:
            return ReluCell if module.nonlinearity == "relu" else TanhCell
