"""Where quantizers go, what stays as it was, and that everything that a layer reads lies on a grid."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from compression.odd_networks import ODD
from compression.zoo import DIGIT, QUICK_ZOO, ROWS, trained_looking, zoo
from pocketpipe.compression.passing import is_layer
from pocketpipe.compression.quantization.adaround import round_network
from pocketpipe.compression.quantization.bias_correction import correct_bias
from pocketpipe.compression.quantization.calibration import set_activation_steps, set_weight_steps, weight_grids
from pocketpipe.compression.quantization.grids import (
    bias_and_factor,
    folded_grid,
    folded_integers,
    quantized_layers,
    weight_quantizer,
)
from pocketpipe.compression.quantization.insertion import Bits, insert, quantizers_of
from pocketpipe.compression.quantization.quantizers import WeightQuantizer
from pocketpipe.compression.quantization.symbolic import lost_in_training
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import bare, laid_on, lay_on, parameter_name, weight_of
from pocketpipe.errors import UserError
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.integer import reference
from pocketpipe.integer.lowering import lower


def _inputs(shape: tuple[int, ...], count: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def _calibrated(network: nn.Module, shape: tuple[int, ...], bits: Bits | None = None) -> nn.Module:
    quantized = insert(network, shape, bits or Bits())
    set_weight_steps(quantized, "minmax")
    set_activation_steps(quantized, [_inputs(shape)], "minmax")
    return quantized.eval()


class Small(nn.Module):
    """A convolution with BatchNorm and ReLU, dropout as a function, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(functional.dropout(x, 0.5, training=self.training))


def test_the_simulation_is_what_torchs_fake_quantization_computes() -> None:
    network = trained_looking(Small())
    quantized = _calibrated(network, (2, 6, 6))
    x = _inputs((2, 6, 6), seed=1)

    def fake(value: Tensor, name: str) -> Tensor:
        quantizer = quantizers_of(quantized)[name]
        scale, zero_point = float(quantizer.scale.detach()), int(quantizer.zero_point)
        return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, -128, 127)

    def weight(layer: str) -> Tensor:
        scale = weight_quantizer(quantized, layer).scale.detach()
        zeros = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight_of(network, layer), scale, zeros, 0, -127, 127)

    def bias(layer: nn.Module, norm: nn.Module | None, name: str, source: str) -> Tensor:
        """Rounded to steps of the input times those of the folded weight."""
        exact, factor = bias_and_factor(layer, norm)
        assert exact is not None
        scale = weight_quantizer(quantized, name).scale.detach().double()
        step = (
            quantizers_of(quantized)[source].scale.detach().double() * scale * (1 if factor is None else factor.abs())
        )
        return ((exact / step).round() * step).float()

    factor = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
    y = functional.conv2d(fake(x, "input"), weight("conv")) * factor.view(-1, 1, 1)
    y = fake(functional.relu(y + bias(network.conv, network.norm, "conv", "input").view(-1, 1, 1)), "conv")
    y = functional.linear(fake(y.mean((2, 3)), "mean"), weight("head")) + bias(network.head, None, "head", "mean")
    expected = fake(y, "head")
    with torch.no_grad():
        difference = (quantized(x) - expected).abs()
    step = float(quantizers_of(quantized)["head"].scale.detach())
    assert (difference > step / 2).float().mean() < 0.03, "ties aside they are equal"


def test_names_of_a_residual_network() -> None:
    quantized = insert(zoo("resnet8", DIGIT), DIGIT, Bits())
    assert list(quantizers_of(quantized)) == [
        "input", "conv1", "layer1_0_conv1", "layer1_0_conv2", "layer1_0_add", "layer2_0_conv1", "layer2_0_conv2",
        "layer2_0_add", "layer3_0_conv1", "layer3_0_conv2", "layer3_0_add", "mean", "linear",
    ]  # fmt: skip


def test_modules_and_parameters_keep_their_names() -> None:
    network = zoo("resnet8", DIGIT)
    quantized = insert(network, DIGIT, Bits())
    assert isinstance(quantized, type(network))
    kept = {parameter_name(name) for name in quantized.state_dict()}
    assert set(network.state_dict()) <= kept
    assert {name for name, _ in network.named_modules()} <= {name for name, _ in quantized.named_modules()}


def test_few_bits_are_for_factors_and_sums_keep_eight() -> None:
    quantized = insert(zoo("resnet8", DIGIT), DIGIT, Bits(weights=3, activations=4))
    bits = {name: quantizer.bits for name, quantizer in quantizers_of(quantized).items()}
    assert bits["layer1_0_conv1"] == 4
    assert bits["layer1_0_conv2"] == 8, "it is only added"
    assert (bits["layer1_0_add"], bits["layer1_0_add_factor"]) == (8, 4), "added on, and a factor"
    assert (bits["input"], bits["mean"], bits["linear"]) == (8, 8, 8), "of the first and the last layer"
    weights = {layer: weight_quantizer(quantized, layer).bits for layer in quantized_layers(quantized)}
    assert (weights["conv1"], weights["layer1.0.conv1"], weights["linear"]) == (8, 3, 8)


def test_single_layers_have_their_own_bits() -> None:
    bits = Bits(weights=4, layers={"conv1": 2, "layer1.0.conv2": 32})
    quantized = insert(zoo("resnet8", DIGIT), DIGIT, bits)
    assert weight_quantizer(quantized, "conv1").bits == 2
    assert "layer1.0.conv2" not in quantized_layers(quantized)


def test_the_steps_of_a_recurrent_network_share_quantizers() -> None:
    quantized = insert(zoo("gru", ROWS), ROWS, Bits())
    names = [name for name in quantizers_of(quantized) if name.startswith("cell")]
    assert 0 < len(names) < 30
    assert quantized(_inputs(ROWS, 3)).shape == (3, 10)


GRIDS = [(name, shape, lambda name=name, shape=shape: zoo(name, shape)) for name, shape in QUICK_ZOO]
LEFT_OUT = ("written_down", "encoder")
"""The first cannot read images that lie channels last; torch's encoder is not looked into."""
GRIDS += [(name, shape, factory) for name, (factory, shape) in ODD.items() if name not in LEFT_OUT]


@pytest.mark.parametrize(("name", "shape", "build"), GRIDS, ids=[name for name, _, _ in GRIDS])
def test_what_layers_read_lies_on_a_grid(name: str, shape: tuple[int, ...], build: Callable[[], nn.Module]) -> None:
    """At most 256 values in all that a layer reads in one call; each channel of a weight in whole steps."""
    torch.manual_seed(0)
    network = build()
    quantized = _calibrated(network, shape)
    read: list[int] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read.append(inputs[0].unique().numel())
        weight = module.weight.detach()
        channels = weight.transpose(0, 1) if isinstance(module, _ConvTransposeNd) else weight
        assert all(_on_a_grid(channel) for channel in channels.flatten(1))

    for module in quantized.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            module.register_forward_pre_hook(look)
    x = _inputs(shape, 64)
    with torch.no_grad():
        outputs = quantized(x)
        assert read
        assert max(read) <= 256
        assert outputs.unique().numel() <= 256
        exact = network.eval()(x)
        assert (outputs - exact).square().mean() < 0.05 * exact.square().mean().clamp(min=1e-3)
        assert quantized(x[:1]).shape == exact[:1].shape, "the batch is free"


def _on_a_grid(channel: Tensor) -> bool:
    """Whether all weights are whole multiples, up to 127, of one step: the largest is one of the 127."""
    steps = channel.abs().max() / torch.arange(1, 128)
    whole = channel[:, None] / steps
    return bool(((whole - whole.round()).abs().amax(0) < 1e-3).any()) or not channel.any()


def test_late_folding_keeps_the_integers() -> None:
    """The BatchNorm's factor goes into the steps, its sign into the integers."""
    network = trained_looking(Small())
    network.norm.weight.data[1] *= -1
    quantized = _calibrated(network, (2, 6, 6))
    _, factor = bias_and_factor(network.conv, network.norm)
    assert factor is not None
    grid = folded_grid(quantized, "conv", factor)
    assert grid is not None
    integers = folded_integers(quantized, "conv", grid, factor)
    quantizer = weight_quantizer(quantized, "conv")
    own = (quantizer(weight_of(network, "conv")) / quantizer.step(4)).round().to(torch.int8)
    assert torch.equal(integers, own * torch.tensor([1, -1, 1, 1, 1], dtype=torch.int8).view(-1, 1, 1, 1))
    folded = weight_of(quantized, "conv") * factor.view(-1, 1, 1, 1)
    torch.testing.assert_close(integers * grid.along(4), folded.float(), rtol=1e-6, atol=0)


def test_a_channel_whose_batchnorm_is_switched_off_still_has_a_step() -> None:
    network = trained_looking(Small())
    network.norm.weight.data[2] = 0
    quantized = _calibrated(network, (2, 6, 6))
    _, factor = bias_and_factor(network.conv, network.norm)
    grid = folded_grid(quantized, "conv", factor)
    assert grid is not None
    assert grid.step.min() > 1e-5 * grid.step.max()
    assert not folded_integers(quantized, "conv", grid, factor)[2].any()


def test_masked_weights_stay_zero() -> None:
    class Half(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * (torch.arange(weight.numel()).view_as(weight) % 2)

    network = trained_looking(Small())
    lay_on(network, "conv", Half())
    quantized = _calibrated(network, (2, 6, 6))
    assert torch.equal(weight_of(quantized, "conv") == 0, (weight_of(network, "conv") == 0))


def test_a_weight_on_a_grid_of_its_own_gets_no_quantizer() -> None:
    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("grid_scale", torch.tensor(0.1))

        def forward(self, weight: Tensor) -> Tensor:
            return (weight / 0.1).round() * 0.1

    network = trained_looking(Small())
    lay_on(network, "conv", Coarse())
    quantized = _calibrated(network, (2, 6, 6))
    assert quantized_layers(quantized) == ("head",)
    grid = folded_grid(quantized, "conv", None)
    assert grid is not None
    torch.testing.assert_close(folded_integers(quantized, "conv", grid, None) * 0.1, weight_of(network, "conv"))


def test_weights_with_two_names_share_their_steps() -> None:
    factory, shape = ODD["tied"]
    quantized = insert(factory(), shape, Bits())
    again, same = (weight_quantizer(quantized, layer) for layer in ("again", "same"))
    assert again is same
    assert [len(laid_on(quantized, layer)) for layer in ("again", "same")] == [1, 1]


def test_a_copy_is_independent_and_the_original_is_left_alone() -> None:
    network = zoo("resnet8", DIGIT)
    before = copy.deepcopy(network.state_dict())
    quantized = _calibrated(network, DIGIT)
    x = _inputs(DIGIT)
    copied = copy.deepcopy(quantized)
    with torch.no_grad():
        expected = quantized(x)
        quantizers_of(copied)["input"].set_range(-0.1, 0.1)
        copied.conv1.parametrizations.weight.original.zero_()
        assert torch.equal(quantized(x), expected)
        assert not torch.equal(copied(x), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_state_of_one_makes_another_the_same() -> None:
    quantized = _calibrated(zoo("resnet8", DIGIT), DIGIT)
    torch.manual_seed(5)
    fresh = insert(trained_looking(copy.deepcopy(zoo("resnet8", DIGIT))), DIGIT, Bits()).eval()
    fresh.load_state_dict(quantized.state_dict())
    x = _inputs(DIGIT, seed=2)
    with torch.no_grad():
        assert torch.equal(fresh(x), quantized(x))


def test_batchnorm_and_dropout_follow_training() -> None:
    quantized = _calibrated(trained_looking(Small()), (2, 6, 6))
    x = _inputs((2, 6, 6))
    mean = quantized.norm.running_mean.clone()
    quantized.train()
    torch.manual_seed(0)
    first, second = quantized(x), quantized(x)
    assert not torch.equal(first, second), "dropout"
    assert not torch.equal(quantized.norm.running_mean, mean)
    quantized.eval()
    with torch.no_grad():
        assert torch.equal(quantized(x), quantized(x))


class Dropping(nn.Module):
    """Stochastic depth as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.5) / 0.5


def dropped(x: Tensor, training: bool) -> Tensor:
    """As torchvision has it: fx does not look into it."""
    return x * torch.bernoulli(torch.full((len(x),) + (1,) * (x.ndim - 1), 0.5)) if training else x


fx.wrap("dropped")


class Wrapped(nn.Module):
    """Hands over whether it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        return dropped(x, self.training)


class Stochastic(nn.Module):
    """A residual block, of which the branch is sometimes left out, twice by the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.other = nn.Conv2d(2, 2, 3, padding=1)
        self.dropping = Dropping()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropping(self.conv(x))
        return functional.relu(x + self.dropping(self.other(x)))


@pytest.mark.parametrize("dropping", [Dropping, Wrapped])
def test_a_module_that_does_nothing_in_eval_mode_still_does_it_in_training(dropping: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = Stochastic().eval()
    network.dropping = dropping()
    network.eval()
    quantized = _calibrated(network, (2, 6, 6), Bits(weights=8, activations=8))
    x = _inputs((2, 6, 6))
    with torch.no_grad():
        torch.testing.assert_close(quantized(x), network(x), rtol=0, atol=0.1)
        assert len(quantizers_of(quantized)) == len(quantizers_of(_calibrated(Plain().eval(), (2, 6, 6))))
        quantized.train()
        assert not torch.equal(quantized(x), quantized(x))


class InPlace(nn.Module):
    """An activation that writes to what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x, inplace=True)


class Joining(nn.Module):
    """Hands on what it gets alone, and adds what it gets together."""

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return x if other is None else x + other


class Several(nn.Module):
    """With both, and with constants of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.activation, self.joining = InPlace(), Joining()

    def forward(self, x: Tensor) -> Tensor:
        first = self.joining(self.activation(self.conv(x)))
        return self.joining(first, self.other(x) * torch.tensor(0.5)) + torch.full((6, 6), -1.0).triu(1)


def test_modules_that_change_something_are_looked_into() -> None:
    torch.manual_seed(0)
    network = Several().eval()
    quantized = _calibrated(network, (2, 6, 6))
    x = _inputs((2, 6, 6))
    with torch.no_grad():
        torch.testing.assert_close(quantized(x), network(x), rtol=0, atol=0.1)
    assert lost_in_training(network, (2, 6, 6)) is None
    assert len(quantizers_of(quantized)) >= 5, "the input, both layers, the product, the sum"


class Plain(Stochastic):
    """The same without."""

    def __init__(self) -> None:
        super().__init__()
        self.dropping = nn.Identity()


class Inline(Stochastic):
    """The same, in the block's own code."""

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv(x)
        if self.training:
            branch = branch * branch.new_empty((branch.shape[0], 1, 1, 1)).bernoulli_(0.5)
        return functional.relu(x + branch)


class Drawing(Stochastic):
    """Draws a number, and looks at it."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and bool((x.sum() + torch.rand(())) > 0.5):
            return x
        return x + self.conv(x)


class FrozenNorm(nn.BatchNorm2d):
    """A BatchNorm with a forward of its own, as timm's with an activation."""

    def forward(self, x: Tensor) -> Tensor:
        arguments = (self.running_mean, self.running_var, self.weight, self.bias, self.training)
        return functional.relu(functional.batch_norm(x, *arguments))


def test_what_happens_in_training_alone_is_told() -> None:
    shape = (2, 6, 6)
    assert lost_in_training(Small(), shape) is None
    network = Stochastic()
    assert lost_in_training(network, shape) is None
    network.dropping = Wrapped()
    assert lost_in_training(network, shape) is None
    assert lost_in_training(zoo("resnet8", DIGIT), DIGIT) is None
    assert lost_in_training(nn.Sequential(nn.Conv2d(2, 2, 1), Inline()), shape) == "1"
    assert lost_in_training(Drawing(), shape) == "Drawing"
    assert lost_in_training(nn.Sequential(nn.Conv2d(2, 5, 1), FrozenNorm(5)), shape) == "1"


def test_every_parameter_gets_a_gradient() -> None:
    quantized = _calibrated(zoo("resnet8", DIGIT), DIGIT, Bits(weights=4, activations=4)).train()
    quantized(_inputs(DIGIT)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in quantized.parameters())


@pytest.mark.slow
def test_it_can_be_compiled_whole() -> None:
    quantized = _calibrated(zoo("resnet8", DIGIT), DIGIT, Bits(weights=4, activations=4)).train()
    compiled = torch.compile(copy.deepcopy(quantized), dynamic=False, fullgraph=True)
    x = _inputs(DIGIT)
    losses = [network(x).square().mean() for network in (quantized, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for one, other in zip(quantized.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-2, atol=1e-4)


def test_hooks_on_blocks_see_what_they_make() -> None:
    quantized = _calibrated(zoo("resnet8", DIGIT), DIGIT)
    seen: list[Tensor] = []
    quantized.layer2.register_forward_hook(lambda module, inputs, made: seen.append(made))
    with torch.no_grad():
        quantized(_inputs(DIGIT))
    assert [tuple(made.shape) for made in seen] == [(16, 32, 4, 4)]
    assert seen[0].unique().numel() <= 256


def test_without_its_rounding_it_is_the_network_that_it_was() -> None:
    network = zoo("resnet8", DIGIT)
    quantized = _calibrated(network, DIGIT)
    plain = bare(quantized)
    with torch.no_grad():
        for layer in quantized_layers(quantized):
            weight_of(plain, layer).copy_(weight_of(network, layer))
        x = _inputs(DIGIT)
        torch.testing.assert_close(plain(x), network(x))


def test_the_output_can_stay_in_float() -> None:
    quantized = insert(zoo("resnet8", DIGIT), DIGIT, Bits(), output="float")
    assert "linear" not in quantizers_of(quantized)


def test_one_step_for_a_whole_weight() -> None:
    quantized = insert(zoo("resnet8", DIGIT), DIGIT, Bits(), granularity="per_tensor")
    assert {weight_quantizer(quantized, layer).scale.numel() for layer in quantized_layers(quantized)} == {1}


class _ByValue(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else x


class _ByBatch(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.shape[0] > 1 else x


class _Unused(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        y.relu_()
        return y


class _NoLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (_ByValue(3, 3), "not depend on its values"),
        (_ByBatch(3, 3), "size of the batch"),
        (_Unused(3, 3), "'relu_' changes a tensor in place"),
        (_NoLayer(), "no layer with a weight"),
    ],
)
def test_what_cannot_be_traced_is_one_clear_line(network: nn.Module, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        insert(network, (3,), Bits())
    assert "\n" not in str(caught.value)


def test_a_network_is_quantized_once() -> None:
    with pytest.raises(UserError, match="quantized twice"):
        insert(insert(zoo("lenet", DIGIT), DIGIT, Bits()), DIGIT, Bits())


def test_quantizers_of_weights_are_parametrizations() -> None:
    quantized = insert(zoo("lenet", DIGIT), DIGIT, Bits())
    assert sum(isinstance(module, WeightQuantizer) for module in quantized.modules()) == 5


class Transposed(nn.Module):
    """Its argument has the name of a method."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, t: Tensor) -> Tensor:
        return self.head(t)


class Words(nn.Module):
    """Reads ids of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(100, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids.long()).mean(1))


class Table(nn.Module):
    """A row with an id in front and numbers behind."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(100, 4), nn.Linear(9, 3)

    def forward(self, row: Tensor) -> Tensor:
        return self.head(torch.cat([self.table(row[:, 0].long()), row[:, 1:]], 1))


def test_ids_beside_numbers_are_not_rounded() -> None:
    quantized = insert(Table(), (6,), Bits())
    assert "input" in quantizers_of(quantized)
    set_weight_steps(quantized, "minmax")
    rows = torch.randn(96, 6, generator=torch.Generator().manual_seed(0)) * 50
    rows[:, 0] = torch.arange(96)
    read: list[Tensor] = []
    quantized.table.register_forward_hook(lambda module, inputs, output: read.append(inputs[0]))
    set_activation_steps(quantized, [rows], "minmax")
    quantized.eval()(rows)
    assert torch.equal(read[-1], torch.arange(96))


def test_an_argument_is_an_input_whatever_its_name() -> None:
    assert "input" in quantizers_of(insert(Transposed(), (4,), Bits()))


def test_ids_are_not_rounded() -> None:
    quantized = insert(Words(), (6,), Bits())
    assert "input" not in quantizers_of(quantized)
    set_weight_steps(quantized, "minmax")
    ids = torch.arange(96, dtype=torch.float32).view(16, 6)
    set_activation_steps(quantized, [ids], "minmax")
    assert len(quantized.eval()(ids).unique(dim=0)) == 16


class TwoLinear(nn.Module):
    """What the second one reads depends on the bias of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.relu(self.first(x)))


def test_ranges_are_measured_with_biases_as_they_are() -> None:
    quantized = insert(TwoLinear(), (4,), Bits(weights=2, first_last=2))
    set_weight_steps(quantized, "minmax")
    x = _inputs((4,), count=64)
    set_activation_steps(quantized, [x], "minmax")
    between = functional.relu(functional.linear(x, quantized.first.weight, quantized.first.bias))
    quantizer = quantizers_of(quantized)["first"]
    assert float(quantizer.scale.detach()) * 255 == pytest.approx(float(between.detach().max()), rel=1e-6)


def test_a_norm_that_is_switched_off_leaves_its_shift() -> None:
    network = trained_looking(Small())
    with torch.no_grad():
        network.norm.weight.zero_()
        network.norm.bias.fill_(0.7)
    quantized = _calibrated(network, (2, 6, 6))
    x = _inputs((2, 6, 6), seed=1)
    step = float(quantizers_of(quantized)["head"].scale.detach())
    assert (quantized(x) - network(x)).abs().max() <= 2 * step


class ByName(nn.Module):
    """Gives a layer its input by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=x)


def test_a_layer_may_be_called_by_keyword() -> None:
    network = trained_looking(ByName())
    quantized, x = _calibrated(network, (4,)), _inputs((4,))
    assert list(quantizers_of(quantized)) == ["input", "head"]
    assert (quantized(x) - network(x)).abs().max() < 0.1


class PadsItself(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (1, 1, 1, 1)))


class OneByOne(nn.Conv2d):
    """A convolution with other arguments, which computes as torch's."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(channels_in, channels, 1, bias=False)


class Eager(nn.BatchNorm2d):
    """A BatchNorm with other arguments."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3)


class Own(nn.Module):
    """Layers and a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pads = PadsItself(2, 5, 3)
        self.mixes = OneByOne(5, 6)
        self.norm = Eager(6)
        self.matrix = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.mixes(functional.relu(self.pads(x)))))
        return x.mean((2, 3)) @ self.matrix


def test_masks_on_layers_of_ones_own_outlive_quantization_and_export() -> None:
    network = trained_looking(Own())
    for layer in ("pads", "mixes", "matrix"):
        lay_on(network, layer, Mask(torch.rand_like(weight_of(network, layer)) > 0.5))
    quantized = _calibrated(network, (2, 6, 6))
    x = _inputs((2, 6, 6), 4)
    outputs = run_onnx(export_onnx(quantized, (2, 6, 6)), x.numpy())
    with torch.no_grad():
        assert np.abs(outputs - quantized(x).numpy()).max() < 0.02 * np.abs(outputs).max()
    for layer in ("pads", "mixes", "matrix"):
        assert (weight_of(bare(quantized), layer)[weight_of(network, layer) == 0] == 0).all()


def test_a_subclass_that_computes_as_torchs_is_one_layer_with_its_norm() -> None:
    quantized = insert(trained_looking(Own()), (2, 6, 6), Bits())
    assert quantized.norms_to_fold == {"mixes": "norm"}
    assert is_layer(quantized.mixes)
    before = quantized.norm.running_mean.clone()
    quantized.train()(_inputs((2, 6, 6)))
    assert not torch.equal(quantized.norm.running_mean, before), "it goes on learning"


class Twice(nn.Module):
    """Two names for one weight; the second one runs first."""

    def __init__(self) -> None:
        super().__init__()
        self.later = nn.Linear(4, 4)
        self.first = nn.Linear(4, 4)
        self.first.weight = self.later.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.later(functional.relu(self.first(x)))))


def test_bits_of_a_shared_weight_go_by_the_name_that_plans_use() -> None:
    bits = Bits(layers={"later": 4})
    assert weight_quantizer(insert(Twice(), (4,), bits), "first").bits == 4
    assert quantized_layers(insert(Twice(), (4,), Bits(layers={"later": 32}))) == ("head",)


def test_weight_norm_is_told_with_what_to_do() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 4, 3)), nn.ReLU(), nn.Flatten())
    with pytest.raises(UserError, match=r"layer '0': .*weight_norm.*remove_parametrizations"):
        insert(network, (2, 6), Bits())


def test_calibration_follows_a_layer_that_is_called_by_keyword() -> None:
    network = trained_looking(ByName())
    quantized, x = _calibrated(network, (4,)), _inputs((4,))
    round_network(quantized, network, [x], weight_grids(quantized))
    correct_bias(quantized, network, [x])
    assert (quantized(x) - network(x)).abs().max() < 0.1


class LastStep(nn.Module):
    """A module whose result is one step of a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one(x), self.other(x)], 1)[:, -1]


class AllSteps(LastStep):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.one(x), self.other(x)], 1)


class Taken(nn.Module):
    """Reads one step of what another module returns."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = AllSteps(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        taken: Tensor = self.head(self.steps(x)[:, 0])
        return taken


class Turned(Taken):
    """Through a stack of other axes: steps first, then the batch."""

    def forward(self, x: Tensor) -> Tensor:
        taken: Tensor = self.head(torch.stack([self.steps.one(x), self.steps.other(x)]).transpose(0, 1)[:, -1])
        return taken


@pytest.mark.parametrize("make", [lambda: nn.Sequential(LastStep(), nn.ReLU(), nn.Linear(5, 3)), Taken, Turned])
def test_modules_that_return_steps_of_a_stack_are_quantized(make: Callable[[], nn.Module]) -> None:
    network = make().eval()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    quantized = insert(network, (4,), Bits())
    set_weight_steps(quantized, "minmax")
    set_activation_steps(quantized, [x], "minmax")
    assert not [name for name in quantizers_of(quantized) if "stack" in name or "transpose" in name]
    with torch.no_grad():
        assert (quantized(x) - network(x)).abs().max() < 0.1


class Masked(nn.Module):
    """Attention that looks back only: what is hidden has a billion taken off."""

    def __init__(self, far: float, diagonal: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("mask", torch.full((5, 5), far).triu(diagonal))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) + self.mask
        made: Tensor = self.head(scores.float().softmax(-1) @ self.value(x))
        return made


@pytest.mark.parametrize("diagonal", [1, 0], ids=["causal", "one row hidden throughout"])
@pytest.mark.parametrize("far", [-1e4, -1e9])
def test_masks_before_a_softmax_do_not_coarsen_what_they_leave(far: float, diagonal: int) -> None:
    torch.manual_seed(0)
    network, x = Masked(far, diagonal).eval(), torch.randn(32, 5, 6)
    quantized = insert(network, (5, 6), Bits())
    set_weight_steps(quantized, "minmax")
    set_activation_steps(quantized, [x], "minmax")
    with torch.no_grad():
        made, expected = quantized.eval()(x), network(x)
    seeing = slice(1 - diagonal, None)  # what a row sees that is hidden throughout means nothing
    assert (made - expected)[:, seeing].abs().max() < 0.05 * expected.abs().max()
    graph = lower(export_onnx(quantized, (5, 6)))
    integers = graph.real(reference.run(graph, graph.quantized(x.numpy())))
    assert np.abs(integers - made.numpy()).max() < 2.5 * graph.tensors[graph.output].scale


def test_a_matrix_for_each_head_stays_in_float() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.each = nn.Linear(6, 8), nn.Parameter(torch.randn(2, 8, 3))

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = (self.inner(x).unsqueeze(1) @ self.each).flatten(1)
            return made

    assert quantized_layers(insert(Heads(), (5, 6), Bits())) == ("inner",)
