"""BatchNorm folding, against the networks themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from compression.odd_networks import Dense
from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.quantization.folding import factor_and_shift, fold_batchnorm, folded, norms_after
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import bare, lay_on, weight_of
from pocketpipe.errors import UserError


class Kinds(nn.Module):
    """Every kind of layer that a BatchNorm can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, groups=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.grouped = nn.ConvTranspose2d(8, 12, 3, stride=2, groups=4, bias=False)
        self.norm2 = nn.BatchNorm2d(12, affine=False)
        self.transposed = nn.ConvTranspose2d(12, 5, 2)
        self.norm3 = nn.BatchNorm2d(5, eps=0.1)
        self.line = nn.Conv1d(5, 6, 3, dilation=2, bias=False)
        self.norm4 = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 7)
        self.norm5 = nn.BatchNorm1d(7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv(x)).relu()
        x = self.norm3(self.transposed(self.norm2(self.grouped(x)).relu()))
        return self.norm5(self.head(self.norm4(self.line(x.flatten(2))).mean(2)))


class Shared(nn.Module):
    """BatchNorms that must stay: of two readers, of two inputs, on sequences, without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv1d(4, 4, 1) for _ in range(3))
        self.read_twice, self.called_twice = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.linear, self.on_sequence = nn.Linear(6, 6), nn.BatchNorm1d(4)
        self.last, self.without = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x + self.read_twice(x)
        x = self.called_twice(self.conv2(x)) + self.called_twice(self.conv3(x))
        return self.without(self.last(self.on_sequence(self.linear(x))))


def with_statistics(network: nn.Module) -> nn.Module:
    """BatchNorms as after a training, those without parameters too."""
    generator = torch.Generator().manual_seed(0)
    for norm in norms_of(network):
        for tensor in (*norm.parameters(), *norm.buffers()):
            if tensor.is_floating_point():
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def norms_of(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def assert_same(network: nn.Module, other: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, found = network(x), other(x)
    assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2"])
def test_zoo_networks_compute_the_same_without_batchnorm(name: str) -> None:
    network = zoo(name, DIGIT)
    result = fold_batchnorm(network, DIGIT)
    assert norms_of(network)
    assert not norms_of(result)
    assert_same(network, result, DIGIT)


def test_every_kind_of_layer_takes_its_batchnorm() -> None:
    network = with_statistics(Kinds())
    result = fold_batchnorm(network, (3, 6, 6))
    assert not norms_of(result)
    assert isinstance(result.get_submodule("norm2"), nn.Identity)
    assert_same(network, result, (3, 6, 6))


def test_batchnorms_that_belong_to_no_single_layer_stay() -> None:
    network = with_statistics(Shared())
    assert norms_after(network, (4, 6)) == {}
    assert_same(network, fold_batchnorm(network, (4, 6)), (4, 6))
    dense = trained_looking(Dense())  # normalizes before it convolves
    assert norms_after(dense, (3, 8, 8)) == {}


def test_masked_weights_stay_zero_and_masks_stay() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    weight = weight_of(network, "layer2.0.conv1")
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    lay_on(network, "layer2.0.conv1", Mask(mask))
    result = fold_batchnorm(network, DIGIT)
    assert torch.equal(weight_of(result, "layer2.0.conv1") != 0, mask)
    assert parametrize.is_parametrized(result.get_submodule("layer2.0.conv1"), "weight")
    assert not norms_of(result)
    assert_same(network, result, DIGIT)
    assert_same(network, bare(result), DIGIT)


class TwoValues(nn.Module):
    """A codebook of two entries."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.sign() * 0.1


class WithoutBias(nn.Conv2d):
    """Its forward never looks at a bias."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, None, self.stride, self.padding)


def test_a_layer_whose_own_forward_may_pass_over_a_bias_keeps_its_batchnorm() -> None:
    network = trained_looking(nn.Sequential(WithoutBias(2, 4, 3, bias=False), nn.BatchNorm2d(4)))
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fold_batchnorm(network, (2, 6, 6)).eval()(x), network.eval()(x), atol=1e-5)


def test_a_layer_with_a_codebook_keeps_its_batchnorm() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT))
    lay_on(network, "conv1", TwoValues())
    result = fold_batchnorm(network, DIGIT)
    assert len(norms_of(result)) == 1
    assert isinstance(result.get_submodule("bn1"), nn.BatchNorm2d)
    assert weight_of(result, "conv1").abs().unique().numel() == 1
    assert_same(network, result, DIGIT)


def test_the_original_is_left_alone_and_the_mode_is_kept() -> None:
    network = copy.deepcopy(zoo("resnet8", DIGIT)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = fold_batchnorm(network, DIGIT)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert result.training
    assert all(module.training for module in result.modules())
    assert fold_batchnorm(zoo("resnet8", DIGIT), DIGIT).training is False


def test_one_pair_by_the_formula_and_with_gradients() -> None:
    norm = trained_looking(nn.BatchNorm1d(2, eps=1e-3))
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
        norm.running_var.copy_(torch.tensor([4.0, 0.25]) - 1e-3)
        norm.weight.copy_(torch.tensor([3.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.5, 0.0]))
    factor, shift = factor_and_shift(norm)
    assert factor.tolist() == pytest.approx([1.5, 1.0])
    assert shift.tolist() == pytest.approx([-1.0, 2.0])
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    new, bias = folded(weight, torch.tensor([1.0, 1.0]), norm)
    assert new.flatten().tolist() == pytest.approx([1.5, 3.0, 3.0, 4.0])
    assert bias.tolist() == pytest.approx([0.5, 3.0])
    new.sum().backward()
    assert weight.grad is not None
    assert norm.weight.grad.tolist() == pytest.approx([1.5, 14.0])
    with pytest.raises(ValueError, match="running statistics"):
        factor_and_shift(nn.BatchNorm1d(2, track_running_stats=False))


def test_a_network_without_a_static_graph_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="cannot be traced"):
        fold_batchnorm(Odd(), (3,))


class Activated(nn.BatchNorm2d):
    """As timm's: its forward ends in an activation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(super().forward(x))


class TwoNames(nn.Module):
    """Modules under a name of their own, and in the sequence that runs."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, bias=False), norm(4)
        self.body = nn.Sequential(self.conv, self.norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Activated])
def test_what_is_folded_computes_the_same(norm: type[nn.Module]) -> None:
    network = trained_looking(TwoNames(norm)).eval()
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    folded_network = fold_batchnorm(network, (2, 6, 6))
    assert torch.allclose(folded_network(x), network(x), atol=1e-5)
    assert isinstance(folded_network.norm, Activated if norm is Activated else nn.Identity)
