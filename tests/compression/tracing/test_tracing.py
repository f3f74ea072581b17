"""Which channels go together: against what the papers' drawings say, and MACs against PyTorch's own counter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compression.counting import counted_macs
from compression.odd_networks import ODD, UNCOUNTED
from compression.zoo import ALL, DIGIT, EACH, ROWS, SMALL, odd, zoo
from pocketpipe.compression.tracing import Trace, profile_of, trace
from pocketpipe.compression.tracing.examples import example_for
from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS


def _traced(name: str) -> Trace:
    return trace(*odd(name))


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
    groups = _by_name(trace(zoo("resnet18", DIGIT), DIGIT))
    assert groups["conv1"] == (64, ("conv1", "layer1.0.conv2", "layer1.1.conv2"))
    assert groups["layer2.0.conv2"] == (128, ("layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"))
    assert len(groups) == 4 + 8  # a residual stream a stage, an inner layer a block


def test_depthwise_convolutions_go_with_their_input() -> None:
    groups = _by_name(trace(zoo("mobilenet_v1", DIGIT), DIGIT))
    assert groups["stem.0"] == (32, ("stem.0", "blocks.0.0.0"))
    assert groups["blocks.0.1.0"] == (64, ("blocks.0.1.0", "blocks.1.0.0"))
    assert len(groups) == 14


def test_inverted_residuals() -> None:
    groups = _by_name(trace(zoo("mobilenet_v2", DIGIT), DIGIT))
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


EXPECTED = {
    "attention": {"query": 8, "value": 8, "inner": 20},
    "cells": {"lstm.weight_ih": 6, "gru.weight_ih": 7},
    "convnext": {"inner": 32},
    "densenet": {
        "stem": 8, "first.0.2": 8, "first.0.5": 4, "first.1.2": 8, "first.1.5": 4, "transition.2": 10,
        "second.0.2": 8, "second.0.5": 4, "second.1.2": 8, "second.1.5": 4,
    },
    "encoder": {f"encoder.layers.{i}.{name}": n for i in (0, 1)
                for name, n in (("self_attn.in_proj_weight", 4), ("linear1", 24))},
    "frames": {"stem.0": 6},
    "gated": {"inner": 8, "wide": 6},
    "inception": {
        "stem.0": 8, "one.0": 6, "three.0.0": 5, "three.1.0": 7, "flat.0.0": 6, "flat.1": 6, "flat.2": 9,
        "pooled.1.0": 4, "after.0": 12,
    },
    "llama": {"query": 4, "gate": 24},
    "lstm": {"embed": 7, "inside.weight_ih_l0": 6},
    "lstm_projected": {"embed": 7, "inside.weight_hr_l0": 4},
    "mixer_normalized": {"along": 12},
    "resnext": {"stem": 2, "enter.0": 8, "up": 4},
    "rnn": {"embed": 7, "inside.weight_ih_l0": 6},
    "shufflenet_v1": {"stem.0": 12, "squeeze.0": 4},
    "shufflenet_v2": {"stem.0": 6, "enter.0": 6, "left.2.0": 10, "right.0.0": 8, "last.0": 14},
    "standardized": {"hidden": 9},
    "squeeze_excite": {"stem.0": 6, "expand.0": 18, "reduce": 4},
    "swin": {"qkv": 3},
    "swin_v2": {"qkv": 3, "enter": 8},
    "torch_gru": {"embed": 7, "inside.weight_ih_l0": 6},
    "unet": {"down": 6, "deep": 10, "up": 8},
    "vit_chunked": {"attention.qkv": 4, "inner": 20},
    "vit_explicit": {"attention.query": 3, "inner": 20},
    "vit_packed": {"attention.qkv": 3, "inner": 20},
    "vit_shared": {"attention.query": 2, "inner": 20},
    "vit_stuck": {"inner": 20},
    "vit_torch": {"attention.inside.in_proj_weight": 3, "inner": 20},
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_what_can_be_thinned(name: str) -> None:
    """All that the network's form allows: whole heads, hidden units over all gates, equal groups."""
    assert {group.name: group.channels for group in _traced(name).groups if group.slimmable} == EXPECTED[name]


def test_a_head_is_its_rows_of_query_key_and_value_and_its_columns_of_the_output() -> None:
    group = next(group for group in _traced("vit_packed").groups if group.name == "attention.qkv")
    rows = group.places["attention.qkv.weight", 0]
    assert rows[1].tolist() == [*range(4, 8), *range(16, 20), *range(28, 32)]
    assert group.places["attention.out.weight", 1][2].tolist() == [8, 9, 10, 11]
    assert set(group.places) == {
        ("attention.qkv.weight", 0), ("attention.qkv.bias", 0), ("attention.out.weight", 1)
    }  # fmt: skip


def test_the_width_of_heads_is_thinned_where_their_number_is_written_down() -> None:
    group = next(group for group in _traced("vit_chunked").groups if group.name == "attention.qkv")
    assert group.places["attention.out.weight", 1][1].tolist() == [1, 5, 9]


def test_a_hidden_unit_is_its_row_of_each_gate_in_all_layers_and_directions() -> None:
    group = next(group for group in _traced("lstm").groups if group.name == "inside.weight_ih_l0")
    for layer in ("l0", "l0_reverse", "l1", "l1_reverse"):
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            assert group.places[f"inside.{part}_{layer}", 0][2].tolist() == [2, 8, 14, 20]
        assert group.places[f"inside.weight_hh_{layer}", 1][2].tolist() == [2]
    assert group.places["inside.weight_ih_l1", 1][2].tolist() == [2, 8]
    assert group.places["head.weight", 1][2].tolist() == [2, 8]


def test_groups_of_a_shuffled_convolution() -> None:
    """Channel i of both groups goes; after the shuffle these are neighbours, half of them in each next group."""
    group = next(group for group in _traced("shufflenet_v1").groups if group.name == "squeeze.0")
    assert group.places["squeeze.0.weight", 0].tolist() == [[i, i + 4, i + 8, i + 12] for i in range(4)]
    assert group.places["restore.weight", 1].tolist() == [[2 * i, 2 * i + 1] for i in range(4)]


@pytest.mark.parametrize(
    ("name", "group", "line"),
    [
        ("vit_stuck", "attention.qkv", "node 'reshape' (aten.reshape) in module 'attention': takes channels apart by"),
        ("vit_packed", "patches", "node 'layer_norm' (aten.layer_norm) in module 'norm1': each of its outputs depends"),
        ("standardized", "first", "node 'conv2d_1' (aten.conv2d) in the network's own forward: its weight is computed"),
        (
            "standardized",
            "third",
            "node 'split_with_sizes' (aten.split_with_sizes) in the network's own forward",
        ),
        ("gated", "embed", "node 'rms_norm' (aten.rms_norm) in module 'norm': each of its outputs depends"),
        ("lstm_projected", "inside.weight_ih_l0", "node 'lstm' (aten.lstm) in module 'inside': torch wants more"),
        ("mixer", "along", "node 'linear_1' (aten.linear) in module 'along': another axis of its result carries"),
    ],
)
def test_what_is_left_whole_is_named_with_its_node(name: str, group: str, line: str) -> None:
    assert str(_reasons(_traced(name))[group]).startswith(line)


def test_a_fused_product_scales_by_the_width_of_a_head() -> None:
    """Fewer of its columns would change what the others compute."""

    class OneHead(nn.Module):
        def __init__(self, scale: float | None) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(4, 8) for _ in range(3))
            self.head, self.scale = nn.Linear(8, 5), scale

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.query(x), self.key(x), self.value(x)
            return self.head(functional.scaled_dot_product_attention(q, k, v, scale=self.scale).mean(1))

    free, held = trace(OneHead(0.3).eval(), (6, 4)), trace(OneHead(None).eval(), (6, 4))
    assert _by_name(free) == {"query": (8, ("query", "key")), "value": (8, ("value",))}
    assert _by_name(held) == {"value": (8, ("value",))}
    assert "its scale follows from the width of a head" in str(_reasons(held)["query"])


def test_numbers_in_modules_that_follow_are_found_by_trying() -> None:
    """Of three that could be the number of heads, just the one that is."""
    traced = _traced("vit_explicit")
    assert [(size.path, size.attribute) for size in traced.sizes] == [("attention", "num_heads")]
    shared = _traced("vit_shared")  # four heads, four wide, two with keys of their own
    assert {(size.path, size.attribute) for size in shared.sizes} == {("attention", "heads"), ("attention", "shared")}


@pytest.mark.parametrize("name", ["vit_torch", "vit_explicit", "gated"])
def test_what_can_be_thinned_does_not_depend_on_weights(name: str) -> None:
    """A pinned plan is replayed on a fresh network, whose head of zeros shows nothing of what lies before it."""
    network, shape = odd(name)
    fresh = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in fresh.head.parameters():
            parameter.zero_()
    trained, untrained = (trace(each, shape) for each in (network, fresh))
    assert untrained.profile() == trained.profile()
    sizes = [[(size.path, size.attribute) for size in each.sizes] for each in (trained, untrained)]
    assert sizes[0] == sizes[1]
    assert name == "gated" or sizes[0]
    assert not fresh.head.weight.any(), "the network itself is left as it is"


class Level(nn.Module):
    """One output that is 0 for half of all weights, and code that uses the position of channels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.head = nn.Linear(4, 9), nn.Linear(9, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        return torch.relu(self.head(x * torch.arange(x.shape[-1], dtype=torch.float32)))


def test_positions_are_looked_at_whatever_channels_chance_takes_out() -> None:
    """Of six channels of this name chance takes the last two, which moves no other one."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.head(x * torch.arange(x.shape[-1], dtype=torch.float32))

    assert _by_name(trace(Last(), (4,))) == {}


@pytest.mark.parametrize("seed", range(6))
def test_an_output_of_zero_shows_nothing(seed: int) -> None:
    assert _by_name(trace(Level(seed), (4,))) == {}


class RootOfAParameter(nn.Module):
    """Not finite where its variance is below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.variance = nn.Parameter(torch.full((1, 6), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.first(x) * self.variance.sqrt())


def test_parameters_of_which_a_root_is_taken_are_drawn_positive() -> None:
    assert _by_name(trace(RootOfAParameter(), (4,))) == {"first": (6, ("first",))}


class Words(nn.Module):
    """Ids of tokens, which must be there in the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.outer = nn.Embedding(50, 12), nn.Linear(12, 20), nn.Linear(20, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids.long())
        return self.head((x + self.outer(torch.relu(self.inner(x)))).mean(1))


def test_a_network_that_reads_ids_is_tried_out_on_ids() -> None:
    assert _by_name(trace(Words(), (6,)))["inner"] == (20, ("inner",))


class Gpt(nn.Module):
    """Layers as GPT-2 writes them: (in, out), the product added to the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(7, 10)), nn.Parameter(torch.randn(10, 5))
        self.before, self.after = nn.Parameter(torch.randn(10)), nn.Parameter(torch.randn(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.after, torch.relu(torch.addmm(self.before, x, self.first)), self.second)


def test_a_product_that_is_added_to_its_bias_is_a_layer() -> None:
    network = Gpt()
    profile = profile_of(network, (7,))
    assert {group.name: group.channels for group in profile.slimmable} == {"first": 10}
    assert profile.cost().macs == counted_macs(network, (7,)) == 7 * 10 + 10 * 5


def test_what_is_held_elsewhere_does_not_hold_more_than_it_must() -> None:
    """The input of the grouped convolution must stay, whichever way it would go; its output is free inside groups."""

    class HeldInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1, groups=2)
            self.head = nn.Linear(12, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.grouped(torch.fft.fft2(self.first(x)).abs()).relu().mean((2, 3)))

    class HeldByNorm(HeldInput):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            x = x + functional.layer_norm(x, x.shape[1:])
            return self.head(self.grouped(x).relu().mean((2, 3)))

    for network in (HeldInput(), HeldByNorm()):
        traced = trace(network.eval(), (3, 8, 8))
        assert _by_name(traced) == {"grouped": (6, ("grouped",))}
        assert "grouped" not in str(_reasons(traced)["first"])


def test_what_nothing_reads_holds_nothing_back_but_must_run() -> None:
    """Its result is not used, but its shapes must fit: what is added goes together."""

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            (y + self.second(x)).softmax(-1).sum()
            return self.head(y)

    traced = trace(Unused().eval(), (4,))
    assert _by_name(traced) == {"first": (8, ("first",))}
    assert ("second.weight", 0) in traced.groups[0].places
    assert [layer.name for layer in traced.layers] == ["first", "head"]


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


@pytest.mark.parametrize(("name", "shape"), ALL)
def test_weights_that_are_multiplied_by_are_those_of_convolutions_and_linear_layers(
    name: str, shape: tuple[int, ...]
) -> None:
    """Scales, positions and BatchNorms that stand alone take room, and no method's codes or masks."""
    network = zoo(name, shape)
    expected = {path for path, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {*profile_of(network, shape).products()} == expected


CASES = [*((name, None) for name in sorted(ODD) if name not in UNCOUNTED), *EACH]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_macs_agree_with_pytorchs_counter(name: str, shape: tuple[int, ...] | None) -> None:
    """Convolutions, layers, gates of recurrent cells, products of activations: all that is multiplied."""
    network, shape = odd(name) if shape is None else (zoo(name, shape), shape)
    assert profile_of(network, shape).cost().macs == counted_macs(network, shape)


def test_macs_of_an_lstm_by_the_formula() -> None:
    """Two layers, two directions, six steps: gates read the input (7, then both directions) and the state (6)."""
    cost = profile_of(*odd("lstm")).cost()
    first, second = 6 * 2 * 4 * 6 * (7 + 6), 6 * 2 * 4 * 6 * (12 + 6)
    inside = {name: macs for name, macs in cost.macs_by_layer.items() if name.startswith("inside.")}
    assert sum(inside.values()) == first + second
    assert inside["inside.weight_hh_l1_reverse"] == 6 * 4 * 6 * 6


def test_products_of_activations_have_macs_and_no_parameters() -> None:
    """Scores and values of 3 heads over 5 tokens, 4 wide."""
    profile = profile_of(*odd("vit_packed"))
    products = [layer for layer in profile.layers if layer.operator == "matmul"]
    assert [layer.name for layer in products] == [
        f"attention.scaled_dot_product_attention.{part}" for part in ("scores", "values")
    ]
    assert [layer.cost(profile.widths()).macs for layer in products] == [3 * 5 * 5 * 4] * 2
    assert [layer.cost(profile.widths({"attention.qkv": 1})).macs for layer in products] == [5 * 5 * 4] * 2
    assert all(layer.cost(profile.widths())[1:3] == (0, 0) for layer in products)


def test_parameters_are_those_of_the_network() -> None:
    """Of one without BatchNorm, which the export folds away."""
    for name in ("encoder", "vit_torch", "lstm_projected", "cells", "shuffle", "grouped"):
        network, shape = odd(name)
        assert profile_of(network, shape).cost().parameters == sum(p.numel() for p in network.parameters()), name


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


class Padded(nn.Module):
    """The mean of the embeddings of all tokens but 0, which is padding."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least
        self.table, self.inside, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids.long()
        there = (ids != 0).unsqueeze(-1).float()
        mean = (self.table(ids) * there).sum(1) / there.sum(1).clamp(min=self.least)
        logits: torch.Tensor = self.head(self.inside(mean).relu())
        return logits


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_a_network_for_which_0_is_padding_is_tried_out_on_other_ids(least: float) -> None:
    assert example_for(Padded(least), (24,)).min() >= 1
    found = trace(Padded(least), (24,))
    assert "inside" in {name for group in found.groups if group.slimmable for name in group.members}
