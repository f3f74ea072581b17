"""torch's recurrent modules, unrolled, against torch. The methods on them: tests/compression/test_composition.py."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compression.odd_sequences import Speech
from pocketpipe.errors import UserError
from pocketpipe.network import load_weights
from pocketpipe.networks.unrolling import Unrolled, unrolled

MODULES: dict[str, Callable[..., nn.RNNBase]] = {
    "gru": nn.GRU,
    "gru, two layers, both directions": partial(nn.GRU, num_layers=2, bidirectional=True),
    "gru without biases": partial(nn.GRU, bias=False),
    "lstm": nn.LSTM,
    "lstm, three layers, both directions": partial(nn.LSTM, num_layers=3, bidirectional=True),
    "rnn": partial(nn.RNN, num_layers=2),
    "rnn with relu": partial(nn.RNN, nonlinearity="relu", bias=False),
}


def flat(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [tensor for each in results for tensor in flat(each)]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", MODULES)
@torch.no_grad()
def test_it_computes_what_torch_does(name: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    module = MODULES[name](5, 7, batch_first=batch_first)
    made = unrolled(module)
    x = torch.randn(3, 4, 5)
    states = torch.randn(2, module.num_layers * (1 + module.bidirectional), 3 if batch_first else 4, 7)
    given: Any = tuple(states) if isinstance(module, nn.LSTM) else states[0]
    for arguments in ((x,), (x, given)):
        for expected, found in zip(flat(module(*arguments)), flat(made(*arguments)), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, partial(nn.RNNCell, nonlinearity="relu")])
@torch.no_grad()
def test_cells_compute_what_torchs_do(kind: Callable[..., nn.RNNCellBase]) -> None:
    torch.manual_seed(0)
    cell = kind(5, 7)
    made = unrolled(cell)
    x, state = torch.randn(3, 5), torch.randn(3, 7)
    given: Any = (state, state.flip(0)) if isinstance(cell, nn.LSTMCell) else state
    for arguments in ((x,), (x, given)):
        for expected, found in zip(flat(cell(*arguments)), flat(made(*arguments)), strict=True):
            assert torch.allclose(found, expected, atol=1e-6)


def test_weights_of_torchs_module_are_taken_wherever_it_lies() -> None:
    torch.manual_seed(0)
    trained = Speech(nn.LSTM(8, 8, num_layers=2, batch_first=True)).eval()
    made = unrolled(Speech(nn.LSTM(8, 8, num_layers=2, batch_first=True))).eval()
    load_weights(made, trained.state_dict(), of="speech")
    x = torch.randn(3, 5, 4)
    assert isinstance(made.inside, Unrolled)
    assert torch.allclose(made(x), trained(x), atol=1e-6)
    load_weights(made, made.state_dict(), of="speech")
    lacking = {name: tensor for name, tensor in trained.state_dict().items() if name != "inside.weight_hh_l1"}
    with pytest.raises(UserError, match=r"missing: inside.cells.1.hidden_cell.weight"):
        load_weights(made, lacking, of="speech")


def test_dropout_between_layers_is_torchs() -> None:
    made = unrolled(nn.GRU(5, 400, num_layers=2, dropout=0.5, batch_first=True))
    assert isinstance(made, Unrolled)
    assert made.dropout.p == 0.5
    x = torch.randn(1, 3, 5)
    assert torch.equal(made.eval()(x)[0], made(x)[0])
    assert not torch.equal(made.train()(x)[0], made(x)[0])


def test_what_cannot_be_unrolled_is_told() -> None:
    with pytest.raises(UserError, match="inside: an LSTM with projections"):
        unrolled(nn.ModuleDict({"inside": nn.LSTM(5, 7, proj_size=3)}))
    with pytest.raises(UserError, match="3 axes"):
        unrolled(nn.GRU(5, 7))(torch.zeros(3, 5))
    with pytest.raises(UserError, match="3 axes"):
        unrolled(nn.GRU(5, 7))(nn.utils.rnn.pack_sequence([torch.zeros(3, 5)]))


class Own(nn.GRU):
    """Computes otherwise."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:
        return super().forward(x, hx)[0]


def test_a_module_with_a_forward_of_its_own_is_left_alone() -> None:
    assert isinstance(unrolled(nn.ModuleDict({"own": Own(5, 7)}))["own"], Own)


def test_a_module_of_two_names_stays_one() -> None:
    shared = nn.GRU(5, 5)
    network = unrolled(nn.ModuleDict({"one": shared, "other": shared}))
    assert isinstance(network["one"], Unrolled)
    assert network["one"] is network["other"]


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@torch.no_grad()
def test_weights_with_a_norm_on_them_are_taken_as_they_are_computed(norm: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    module = norm(nn.LSTMCell(5, 7), "weight_hh")
    made, x, state = unrolled(module), torch.randn(3, 5), [torch.randn(3, 7), torch.randn(3, 7)]
    assert made.hidden_size == 7
    for expected, found in zip(module(x, state), made(x, state), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
