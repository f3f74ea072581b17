"""Which channels go together: against what the papers' drawings say, and MACs against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compression.odd_networks import ODD
from compression.zoo import ALL, DIGIT, ROWS, SMALL, zoo
from pocketpipe.compression.tracing import Trace, profile_of, trace
from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS


def _traced(name: str) -> Trace:
    factory, shape = ODD[name]
    return trace(factory().eval(), shape)


def _by_name(traced: Trace) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {group.name: (group.channels, group.members) for group in traced.groups if group.slimmable}


def _reasons(traced: Trace) -> dict[str, str | None]:
    return {group.name: group.reason for group in traced.groups if not group.slimmable}


def test_option_a_couples_a_stage_into_the_middle_of_the_later_ones() -> None:
    network = zoo("resnet8", DIGIT)
    groups = {group.name: group for group in trace(network, DIGIT).groups}
    assert {name: (group.channels, group.members) for name, group in groups.items()} == {
        "conv1": (16, ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")),
        "layer1.0.conv1": (16, ("layer1.0.conv1",)),
        "layer2.0.conv1": (32, ("layer2.0.conv1",)),
        "layer2.0.conv2": (16, ("layer2.0.conv2", "layer3.0.conv2")),
        "layer3.0.conv1": (64, ("layer3.0.conv1",)),
        "layer3.0.conv2": (32, ("layer3.0.conv2",)),
    }
    # Half of the added channels come before, half after: 16 -> 8 + 16 + 8, then 32 -> 16 + 32 + 16.
    where = {name: groups["conv1"].places[name, 0].flatten().tolist() for name in ("conv1.weight", "bn1.bias")}
    assert where == {"conv1.weight": list(range(16)), "bn1.bias": list(range(16))}
    assert groups["conv1"].places["layer2.0.bn2.weight", 0].flatten().tolist() == list(range(8, 24))
    assert groups["conv1"].places["layer3.0.conv2.weight", 0].flatten().tolist() == list(range(24, 40))
    assert groups["conv1"].places["linear.weight", 1].flatten().tolist() == list(range(24, 40))
    added = [*range(8), *range(24, 32)]
    assert groups["layer2.0.conv2"].places["layer2.0.conv2.weight", 0].flatten().tolist() == added


def test_option_b_couples_the_shortcut_with_its_stage_alone() -> None:
    groups = _by_name(trace(zoo("resnet18", SMALL), SMALL))
    assert groups["conv1"] == (64, ("conv1", "layer1.0.conv2", "layer1.1.conv2"))
    assert groups["layer2.0.conv2"] == (128, ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"))
    assert len(groups) == 4 + 8  # a residual stream a stage, an inner layer a block


def test_depthwise_convolutions_go_with_their_input() -> None:
    groups = _by_name(trace(zoo("mobilenet_v1", SMALL), SMALL))
    assert groups["stem.0"] == (32, ("stem.0", "blocks.0.0.0"))
    assert groups["blocks.0.1.0"] == (64, ("blocks.0.1.0", "blocks.1.0.0"))
    assert len(groups) == 14


def test_inverted_residuals() -> None:
    groups = _by_name(trace(zoo("mobilenet_v2", SMALL), SMALL))
    assert groups["features.2.conv.2"] == (24, ("features.2.conv.2", "features.3.conv.2"))
    assert groups["features.3.conv.0.0"] == (144, ("features.3.conv.0.0", "features.3.conv.1.0"))


def test_flattened_channels_are_as_many_columns_as_they_have_pixels() -> None:
    traced = trace(zoo("lenet", DIGIT), DIGIT)
    conv2 = next(group for group in traced.groups if group.name == "conv2")
    assert conv2.places["fc1.weight", 1][3].tolist() == [12, 13, 14, 15]
    widths = {"conv1": 6, "conv2": 16, "fc1": 120, "fc2": 84}
    assert _by_name(traced) == {name: (width, (name,)) for name, width in widths.items()}


def test_a_recurrent_state_is_one_group_with_all_gates() -> None:
    (group,) = trace(zoo("gru", ROWS), ROWS).groups
    assert group.channels == 64
    gates = ("reset", "update", "new")
    assert set(group.members) == {f"cell.{side}_{gate}" for side in ("input", "hidden") for gate in gates}
    assert ("cell.hidden_new.weight", 1) in group.places
    assert ("classifier.weight", 1) in group.places


def test_concatenation_keeps_the_parts_apart() -> None:
    groups = {group.name: group for group in _traced("dense").groups}
    widths = {"stem": 8, "convs.0": 6, "convs.1": 6, "convs.2": 6}
    assert {name: group.channels for name, group in groups.items()} == widths
    assert groups["convs.0"].places["norms.2.running_mean", 0].flatten().tolist() == list(range(8, 14))
    assert groups["convs.1"].places["head.weight", 1].flatten().tolist() == list(range(14, 20))


def test_a_shuffle_of_two_halves_ties_them() -> None:
    """Channel i of both halves is one decision: what passes, and what the other branch makes."""
    groups = {group.name: group for group in _traced("shuffle").groups}
    assert {name: (group.channels, group.members) for name, group in groups.items()} == {
        "stem": (4, ("stem", "outer")),
        "inner": (12, ("inner",)),
        "last": (10, ("last",)),
    }
    assert groups["stem"].places["stem.weight", 0].tolist() == [[i, i + 4] for i in range(4)]
    assert groups["stem"].places["last.weight", 1].tolist() == [[2 * i, 2 * i + 1] for i in range(4)]


def test_an_unknown_operator_is_named_with_its_node() -> None:
    traced = _traced("spectrum")
    (reason,) = _reasons(traced).values()
    assert reason == (
        "node 'fft_fft2' (aten.fft_fft2) in the network's own forward: no rule says what it does to channels"
    )
    assert set(_by_name(traced)) == {"first", "third"}


def test_padding_in_plain_code_fixes_only_the_added_channels() -> None:
    traced = _traced("plain_pad")
    assert _by_name(traced) == {"conv1": (6, ("conv1", "conv2"))}
    reason = _reasons(traced)["conv2"]
    assert reason is not None
    assert "'pad' (aten.pad)" in reason
    assert "2 + 2 channels" in reason


def test_groups_of_a_convolution_stay_equal() -> None:
    groups = {group.name: group for group in _traced("grouped").groups}
    assert {name: group.channels for name, group in groups.items()} == {
        "stem": 4, "grouped": 4, "inner": 6, "transposed": 7, "last": 9
    }  # fmt: skip
    assert groups["stem"].places["stem.weight", 0].tolist() == [[i, i + 4] for i in range(4)]
    assert groups["stem"].places["grouped.weight", 1].tolist() == [[i] for i in range(4)]
    assert groups["inner"].places["twice.weight", 0].tolist() == [[2 * i, 2 * i + 1] for i in range(6)]


def test_a_transformer_keeps_its_stream_and_thins_what_is_inside() -> None:
    traced = _traced("attention")
    assert "aten.layer_norm" in str(_reasons(traced)["embed"])
    assert _by_name(traced) == {"query": (8, ("query", "key")), "value": (8, ("value",)), "inner": (20, ("inner",))}


def test_code_with_a_number_written_down_is_found_by_running_it() -> None:
    reason = str(_reasons(_traced("written_down"))["conv"])
    assert reason.startswith("module 'conv': without some channels its network fails")
    assert set(_by_name(_traced("written_down"))) == {"inner"}


def test_code_that_uses_the_position_of_channels_is_found_by_its_result() -> None:
    traced = _traced("positional")
    assert "computes something else" in str(_reasons(traced)["conv"])
    assert set(_by_name(traced)) == {"free"}


def test_weights_with_two_names_and_modules_called_twice() -> None:
    assert _by_name(_traced("tied")) == {"first": (10, ("first", "again"))}


def test_squeeze_and_excitation() -> None:
    assert _by_name(_traced("squeeze")) == {"conv": (12, ("conv", "up")), "down": (4, ("down",))}


def test_a_network_without_a_static_graph_is_refused() -> None:
    class Depends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="network cannot be traced at input") as refused:
        trace(Depends(), (3,))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "mmacs"), [("resnet20", 40.55), ("resnet56", 125.49), ("resnet8_mlperf_tiny", 12.50)])
def test_macs_are_as_published(name: str, mmacs: float) -> None:
    assert profile_of(zoo(name, SMALL), SMALL).cost().macs / 1e6 == pytest.approx(mmacs, abs=0.01)


CASES = [*((name, None) for name in sorted(ODD) if name not in ("attention", "spectrum")), *ALL]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_macs_agree_with_pytorchs_counter(name: str, shape: tuple[int, ...] | None) -> None:
    """The counter sees the operators that really run. It knows products and convolutions, as the profile does."""
    network, shape = (ODD[name][0]().eval(), ODD[name][1]) if shape is None else (zoo(name, shape), shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape))
    assert profile_of(network, shape).cost().macs == counter.get_total_flops() / 2


@pytest.mark.parametrize(("name", "shape", "count"), [("resnet8", DIGIT, 8), ("gru", ROWS, 7)])
def test_layers_come_in_graph_order_with_module_names(name: str, shape: tuple[int, ...], count: int) -> None:
    network = zoo(name, shape)
    layers = profile_of(network, shape).layers
    modules = [path for path, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert {layer.name for layer in layers} == set(modules)
    assert len(layers) == count == len(modules)
    if name == "resnet8":
        assert [layer.name for layer in layers] == modules


def test_a_trace_is_made_once_for_a_module() -> None:
    network = zoo("resnet8", DIGIT)
    assert trace(network, DIGIT) is trace(network, DIGIT)


def test_tracing_leaves_the_network_as_it_was() -> None:
    network = NETWORKS.resolve("resnet8")(DIGIT, 10).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trace(network, DIGIT)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
