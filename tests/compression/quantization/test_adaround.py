"""Learned rounding, against all roundings there are, and torch's convolutions."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from compression.zoo import DIGIT, trained_looking, zoo
from pocketpipe.compression.members import reading_module
from pocketpipe.compression.quantization.adaround import WeightGrid, adaround, round_network
from pocketpipe.compression.quantization.folding import fold_batchnorm
from pocketpipe.compression.quantization.ranges import weight_limit, weight_scales
from pocketpipe.compression.sampling import patches
from pocketpipe.compression.sparsity.mask import Mask
from pocketpipe.compression.weights import laid_on, lay_on, original_of, weight_of


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, inputs: Tensor) -> Tensor:
    return inputs @ weight.T


def correlated(count: int, width: int) -> Tensor:
    """Inputs with which nearest rounding is not the best."""
    return random(count, width, seed=1).relu() + random(count, 1, seed=2).abs()


def errors(weight: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    return (linear(weight, inputs) - targets).square().mean(0)


def nearest(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    limit = weight_limit(bits)
    return (weight / scales[:, None]).round().clamp(-limit, limit) * scales[:, None]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_is_nearly_the_best_of_all_roundings(bits: int) -> None:
    weight, inputs = random(6, 9), correlated(300, 9)
    scales, limit = weight_scales(weight, bits, "mse"), weight_limit(bits)
    targets = linear(weight, inputs)
    ups = torch.tensor(list(product([0.0, 1.0], repeat=9)))
    best = torch.stack(
        [
            errors(((row / scale).floor() + ups).clamp(-limit, limit) * scale, inputs, target[:, None]).min()
            for row, scale, target in zip(weight, scales, targets.T, strict=True)
        ]
    )
    usual = errors(nearest(weight, scales, bits), inputs, targets)
    rounded = adaround(weight, scales, inputs, targets, linear, bits, iterations=600)
    learned = errors(rounded, inputs, targets)
    assert (learned <= usual).all()
    assert learned.sum() <= 1.1 * best.sum()
    assert best.sum() < 0.8 * usual.sum()  # there was something to learn


@pytest.mark.parametrize("iterations", [0, 3, 100])
def test_no_channel_is_worse_than_nearest_and_all_lie_on_the_grid(iterations: int) -> None:
    weight, inputs = random(5, 20), correlated(64, 20)
    scales = weight_scales(weight, 3, "minmax") * 0.7
    targets = linear(weight, inputs) + 0.1 * random(64, 5, seed=7)
    learned = adaround(weight, scales, inputs, targets, linear, 3, iterations=iterations)
    assert (errors(learned, inputs, targets) <= errors(nearest(weight, scales, 3), inputs, targets)).all()
    assert torch.equal(nearest(learned, scales, 3), learned)
    clipped = weight.clamp(-3 * scales[:, None], 3 * scales[:, None])
    assert ((learned - clipped).abs() < scales[:, None]).all()


def test_masked_weights_stay_zero_and_dead_channels_do_no_harm() -> None:
    weight, inputs = random(4, 12), correlated(64, 12)
    weight[:, ::3] = 0
    weight[2] = 0
    scales = weight_scales(weight, 4, "mse")
    learned = adaround(weight, scales, inputs, linear(weight, inputs), linear, 4, iterations=50)
    assert (learned[weight == 0] == 0).all()
    assert learned.isfinite().all()


def test_a_seed_decides_and_the_worlds_generator_does_not() -> None:
    weight, inputs = random(8, 30), correlated(400, 30)
    scales = weight_scales(weight, 3, "mse")
    found = []
    for seed, world in ((0, 1), (0, 2), (5, 1)):
        torch.manual_seed(world)
        found.append(
            adaround(weight, scales, inputs, linear(weight, inputs), linear, 3, iterations=60, batch_size=16, seed=seed)
        )
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


LAYERS = [
    nn.Conv2d(4, 6, 3, stride=2, padding=1),
    nn.Conv2d(4, 8, (3, 2), padding="same", dilation=2, groups=2),
    nn.Conv2d(4, 8, 3, groups=4, bias=False, padding=2, padding_mode="circular"),
    nn.Conv1d(4, 5, 4, stride=3, padding=2, padding_mode="reflect"),
    nn.Conv3d(4, 3, 2, padding=(1, 0, 1)),
    nn.Linear(7, 3),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_patches_are_what_the_layer_reads(layer: nn.Module) -> None:
    dims = len(getattr(layer, "kernel_size", ()))
    inputs = random(3, 4, *(7, 6, 5)[:dims]) if dims else random(3, 4, 7)
    output = layer(inputs)
    rows = (output.movedim(1, -1) if dims else output).flatten(0, -2)
    chosen = torch.randperm(len(rows))[:20]
    each = len(rows) // len(inputs)
    found = patches(layer, inputs, chosen // each, chosen % each)
    weight = layer.weight.reshape(found.shape[1], -1, found.shape[2])
    products = torch.einsum("ngi,goi->ngo", found, weight).flatten(1)
    assert torch.allclose(products + (0 if layer.bias is None else layer.bias), rows[chosen], atol=1e-5)


class Nearest(nn.Module):
    """Rounds a weight to a grid."""

    def __init__(self, grid: WeightGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, weight: Tensor) -> Tensor:
        scales, limit = self.grid.scales.reshape(-1, *(1,) * (weight.dim() - 1)), weight_limit(self.grid.bits)
        return (weight / scales).round().clamp(-limit, limit) * scales


def rounding(network: nn.Module, bits: int) -> tuple[nn.Module, dict[str, WeightGrid]]:
    result, grids = copy.deepcopy(network), {}
    for path, module in list(result.named_modules()):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            grids[path] = WeightGrid(weight_scales(module.weight, bits, "mse"), bits)
            lay_on(result, path, Nearest(grids[path]))
    return result, grids


def loss(network: nn.Module, reference: nn.Module, data: Tensor) -> float:
    with torch.no_grad():
        return float((network(data) - reference(data)).square().mean())


def test_a_networks_outputs_get_nearer_on_new_data() -> None:
    reference = fold_batchnorm(zoo("resnet8", DIGIT), DIGIT)
    lay_on(reference, "layer1.0.conv2", Mask(random(16, 16, 3, 3, seed=9) > 0))
    quantized, grids = rounding(reference, 3)
    fresh = random(64, *DIGIT, seed=4)
    before = loss(quantized, reference, fresh)
    round_network(quantized, reference, list(random(2, 64, *DIGIT)), grids, iterations=80, positions=1024)
    assert loss(quantized, reference, fresh) < 0.7 * before
    for path, grid in grids.items():
        module = quantized.get_submodule(path)
        computed = weight_of(reference, path) != 0  # what a mask hides stays as it was
        original = module.parametrizations.weight.original
        assert torch.allclose(Nearest(grid)(original)[computed], original[computed])
    assert (weight_of(quantized, "layer1.0.conv2") == 0)[weight_of(reference, "layer1.0.conv2") == 0].all()
    assert not quantized.training


def test_each_layer_is_fitted_to_what_those_before_it_make() -> None:
    """The second layer alone, on the inputs that the rounded first one makes: the same as within the network."""
    reference = trained_looking(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    quantized, grids = rounding(reference, 2)
    data = correlated(200, 6)
    round_network(quantized, reference, [data[:150], data[150:]], grids, iterations=50, seed=3)
    with torch.no_grad():
        order = torch.arange(200)
        inputs, targets = quantized[:2](data)[order], reference(data)[order]
    bias = reference[2].bias.detach()
    alone = adaround(
        reference[2].weight,
        grids["2"].scales,
        inputs,
        targets,
        lambda weight, x: functional.linear(x, weight, bias),
        2,
        iterations=50,
        seed=4,  # the seed of the network and the number of the layer
    )
    assert torch.allclose(quantized[2].weight, alone, atol=1e-6)


class Twice(nn.Module):
    """A layer that is called twice, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.up, self.last = nn.Conv2d(3, 3, 1), nn.ConvTranspose2d(3, 3, 2), nn.Conv2d(3, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.same(self.same(x).relu()).relu()).relu())


def test_weights_that_a_mask_hides_stay_beneath_it() -> None:
    reference = trained_looking(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)))
    lay_on(reference, "0", Mask(torch.arange(72).view(4, 2, 3, 3) % 2 == 0))
    quantized, grids = rounding(reference, 4)
    hidden = ~laid_on(quantized, "0")[0].mask
    before = original_of(quantized, "0")[hidden].clone()
    round_network(quantized, reference, [random(16, 2, 8, 8)], grids, iterations=30)
    assert torch.equal(original_of(quantized, "0")[hidden], before)
    assert before.abs().min() > 0


class PadsItself(nn.Conv2d):
    """A convolution with a forward of its own, as timm has them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


def test_modules_with_a_forward_of_their_own_keep_nearest_rounding() -> None:
    network = trained_looking(nn.Sequential(PadsItself(3, 8, 2), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    quantized, grids = rounding(network, 2)
    own, plain = (weight_of(quantized, path).clone() for path in ("0", "2"))
    round_network(quantized, network, [random(16, 3, 6, 6)], grids, iterations=200)
    assert torch.equal(weight_of(quantized, "0"), own)
    assert not torch.equal(weight_of(quantized, "2"), plain)
    assert reading_module(network, "0") is None
    assert reading_module(network, "2") is not None


def test_what_cannot_be_fitted_and_what_is_not_asked_for_keeps_nearest_rounding() -> None:
    reference = trained_looking(Twice())
    quantized, grids = rounding(reference, 2)
    data = [random(16, 3, 4, 4)]
    before = {path: weight_of(quantized, path).clone() for path in grids}
    round_network(quantized, reference, data, {path: grids[path] for path in ("same", "up")}, iterations=30)
    assert all(torch.equal(before[path], weight_of(quantized, path)) for path in grids)
    round_network(quantized, reference, data, grids, iterations=200)
    assert not torch.equal(before["last"], weight_of(quantized, "last"))
    assert parametrize.is_parametrized(quantized.last, "weight")
