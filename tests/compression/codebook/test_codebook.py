"""The codebook step as plans use it: values, gradients, masks, the int8 grid, cost, projection, JSON, refusals."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from compression.noise import NO_DATA, SOME, TASK
from compression.odd_networks import ODD
from compression.zoo import DIGIT, WHOLE_ZOO, exported, odd, zoo
from pocketpipe.budget import Limits
from pocketpipe.compression.channels import ChannelsStep
from pocketpipe.compression.codebook import CodebookStep
from pocketpipe.compression.codebook.parametrization import Codebook, Form
from pocketpipe.compression.during import scheduled
from pocketpipe.compression.quantization import QuantizationStep
from pocketpipe.compression.sampling import training_views
from pocketpipe.compression.sparsity import SparsityStep
from pocketpipe.compression.tracing import profile_of
from pocketpipe.compression.weights import bare, laid_on, lay_on, original_of, set_weight, weight_of
from pocketpipe.errors import Mistakes, UserError
from pocketpipe.exporting.executing import run_onnx
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.exporting.packing import pack, packed, unpack
from pocketpipe.plan import CompressionPlan
from pocketpipe.profile import NetworkProfile


def _profile(onnx: bytes | None = None) -> NetworkProfile:
    """resnet8 on digits; overhead as the profile stage measures it."""
    dense = onnx or exported("resnet8", DIGIT)
    return profile_of(zoo("resnet8", DIGIT), DIGIT).in_file_of(len(dense), packed(dense).overhead)


def _carried_out(*steps: Any, network: nn.Module | None = None) -> nn.Module:
    made, _ = CompressionPlan(steps).carry_out(network or zoo("resnet8", DIGIT), TASK, SOME)
    return made


def _codebook(network: nn.Module, layer: str) -> Codebook:
    (found,) = (each for each in laid_on(network, layer) if isinstance(each, Codebook))
    return found


def _shares_values(was: torch.Tensor, now: torch.Tensor, bits: int) -> None:
    """Few values, of which each weight has the nearest, and which lie where the weights do.

    Of a normal distribution's variance the best table leaves 2.72 / 4**bits (Panter and Dite 1951), of a uniform one's
    less; k-means finds one that is nearly as good.
    """
    values = now.unique()
    assert len(values) <= 2**bits
    nearest = (was.flatten()[:, None] - values).abs().min(dim=1).values
    assert torch.allclose((was - now).flatten().abs(), nearest, atol=1e-6)
    assert (was - now).square().sum() <= 4 * 4.0**-bits * was.square().sum()


def _task(shape: tuple[int, ...]) -> Any:
    return type("Task", (), {"input_shape": shape})


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("granularity", ["per_layer", "per_channel"])
def test_weights_share_few_values_the_nearest_of_the_table(bits: int, granularity: Any) -> None:
    network = zoo("resnet8", DIGIT)
    made = _carried_out(CodebookStep(bits=bits, granularity=granularity, assignment="nearest"))
    for layer in (layer.name for layer in _profile().layers):
        before, after = weight_of(network, layer).detach(), weight_of(made, layer).detach()
        rows = zip(before, after, strict=True) if granularity == "per_channel" else [(before, after)]
        for was, now in rows:
            _shares_values(was, now, bits)


def test_by_gptq_the_outputs_are_nearer_and_the_tables_the_same() -> None:
    network = zoo("resnet8", DIGIT)
    by_weight, by_output = (
        _carried_out(CodebookStep(bits=2, assignment=assignment)) for assignment in ("nearest", "gptq")
    )
    examples = training_views(TASK, SOME, torch.device("cpu"), wanted_by="this test")
    with torch.no_grad():
        errors = [
            (torch.conv2d(examples, weight_of(made, "conv1"), padding=1) - network.conv1(examples)).square().mean()
            for made in (by_weight, by_output)
        ]
    assert errors[1] < 0.9 * errors[0]
    for layer in (layer.name for layer in _profile().layers):
        assert torch.equal(_codebook(by_weight, layer).values(), _codebook(by_output, layer).values())


def test_a_centroids_gradient_is_the_mean_of_its_members() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    book = Codebook(weight, Form(bits=2))
    passed = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    (book(weight) * passed).sum().backward()
    expected = [passed[book.indices == index].mean() for index in range(4)]
    assert book.centroids.grad is not None
    assert torch.allclose(book.centroids.grad, torch.stack(expected))


def test_a_step_is_that_of_the_weights_projected_on_shared_values() -> None:
    """The least-squares projection of the step that SGD would take on the weights themselves."""
    weight = torch.randn(40, generator=torch.Generator().manual_seed(0))
    book, target = Codebook(weight, Form(bits=2)), torch.linspace(-1, 1, 40)
    shared = book(weight).detach()
    ((book(weight) - target) ** 2).sum().backward()
    assert book.centroids.grad is not None
    stepped = (book.centroids - 0.1 * book.centroids.grad).detach()
    free = shared - 0.1 * 2 * (shared - target)
    members = torch.nn.functional.one_hot(book.indices.long(), 4).float()
    assert torch.allclose(stepped, torch.linalg.lstsq(members, free[:, None]).solution[:, 0], atol=1e-6)


@pytest.mark.parametrize("tuned", ["centroids", "weights", "none"])
def test_what_is_trained(tuned: Any) -> None:
    made = _carried_out(CodebookStep(bits=3, tuned=tuned)).train()
    made(torch.rand(2, *DIGIT)).square().sum().backward()
    book = _codebook(made, "conv1")
    assert (book.centroids.grad is not None) == (tuned != "none")
    assert (original_of(made, "conv1").grad is not None) == (tuned == "weights")


def test_tuned_weights_choose_anew_until_they_have_settled() -> None:
    made = _carried_out(CodebookStep(bits=2, tuned="weights"))
    weight = original_of(made, "conv1").detach()
    other = torch.roll(weight, 1, 0) * 3
    for module in scheduled(made):
        module.at(0.0)
    before = weight_of(made, "conv1").detach().clone()
    set_weight(made, "conv1", other)
    for module in scheduled(made):
        module.at(0.5)
    moved = weight_of(made, "conv1").detach().clone()
    assert len(moved.unique()) <= 4
    assert ((moved - other) ** 2).sum() < ((before - other) ** 2).sum()
    for module in scheduled(made):
        module.at(1.0)
    settled = weight_of(made, "conv1").detach().clone()
    set_weight(made, "conv1", weight)
    for module in scheduled(made):
        module.at(1.0)
    assert torch.equal(weight_of(made, "conv1"), settled)


def test_a_mask_that_closes_after_the_choice_takes_the_weights_with_it() -> None:
    sparsity = SparsityStep(density=0.1, schedule="gradual", begin=0.5, end=1.0)
    made = _carried_out(sparsity, CodebookStep(bits=3, tuned="weights"))
    for progress in (0.0, 0.5, 0.76, 0.9, 1.0):
        for module in scheduled(made):
            module.at(progress)
    for layer in ("conv1", "layer2.0.conv2"):
        weight = weight_of(made, layer)
        assert weight.count_nonzero() <= 0.11 * weight.numel()


def test_on_masks_that_are_still_to_close_weights_are_tuned() -> None:
    """With their values alone in training, no weight would come back, and the schedule would do nothing."""
    gradual = SparsityStep(density=0.1, schedule="gradual")
    made = _carried_out(gradual, CodebookStep(bits=3))
    assert _codebook(made, "conv1").form.tuned == "weights"
    assert original_of(made, "conv1").requires_grad
    with pytest.raises(UserError, match=r"tuned: centroids leaves weights as they are"):
        _carried_out(gradual, CodebookStep(bits=3, tuned="centroids"))
    one_shot = _carried_out(SparsityStep(density=0.1), CodebookStep(bits=3))
    assert _codebook(one_shot, "conv1").form.tuned == "centroids"


@pytest.mark.parametrize("tuned", ["centroids", "weights"])
def test_values_stay_on_the_int8_grid_and_find_back(tuned: Any) -> None:
    weight = torch.linspace(-1, 1, 12).view(3, 4)
    book = Codebook(weight, Form(bits=2, grid="int8", tuned=tuned))
    assert book.grid_scale is not None
    with torch.no_grad():
        book.centroids.mul_(2)
    book.follow(0.9, weight)
    assert float(book.centroids.abs().max()) <= 1.0001 * 127 * float(book.grid_scale)
    book(weight).square().sum().backward()
    assert book.centroids.grad is not None
    assert (book.centroids.grad * book.centroids > 0).all(), "inwards, from the ends too"


def test_the_int8_grid_grows_with_the_weights() -> None:
    weight = torch.linspace(-1, 1, 12).view(3, 4)
    book = Codebook(weight, Form(bits=2, grid="int8", tuned="weights"))
    book.follow(0.0, weight)
    book.follow(0.5, weight * 3)
    assert book.grid_scale is not None
    assert float(book.grid_scale) == pytest.approx(float(book.centroids.abs().max()) / 127)
    assert float(book.centroids.abs().max()) > 1.5
    assert len(book.values().unique()) == 4


def test_a_layer_of_zeros_has_a_scale_that_a_bias_can_be_counted_in() -> None:
    assert float(Codebook(torch.zeros(2, 3), Form(bits=2, grid="int8")).grid_scale) == pytest.approx(1 / 127)


@pytest.mark.parametrize("grid", ["float", "int8"])
@pytest.mark.parametrize("granularity", ["per_layer", "per_channel"])
@pytest.mark.parametrize("tuned", ["centroids", "weights"])
def test_zeros_of_a_mask_stay_zero_whatever_training_does(grid: Any, granularity: Any, tuned: Any) -> None:
    step = CodebookStep(bits=3, grid=grid, granularity=granularity, tuned=tuned)
    made = _carried_out(SparsityStep(density=0.3), step).train()
    zeros = {layer.name: weight_of(made, layer.name) == 0 for layer in _profile().layers}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], 0.1, momentum=0.9)
    for position in range(3):
        for module in scheduled(made):
            module.at(position / 3)
        optimizer.zero_grad()
        made(torch.rand(4, *DIGIT, generator=torch.Generator().manual_seed(position))).square().mean().backward()
        optimizer.step()
    for name, zero in zeros.items():
        assert zero.float().mean() > 0.65
        assert not weight_of(made, name)[zero].any()
        table = 8 if granularity == "per_layer" else 8 * len(zero)
        assert len(weight_of(made, name).unique()) <= table


def test_resumed_it_takes_over_what_a_mask_beneath_closes_at_that_very_step() -> None:
    """Its own renewals are over, the mask's are not; who goes on from a stored state does as who never stopped."""
    weight = torch.arange(1.0, 9.0).view(1, 8)
    book = Codebook(weight, Form(bits=2, zero=True, tuned="weights"))
    book.follow(0.8, weight)
    resumed = Codebook(weight, Form(bits=2, zero=True, tuned="weights"))
    resumed.load_state_dict(book.state_dict())
    closed = weight.masked_fill(weight < 3, 0)
    for one in (book, resumed):
        one.follow(0.9, closed)
        assert torch.equal(one(closed) == 0, closed == 0)


def test_on_the_int8_grid_values_are_integers_times_a_scale_after_training_too() -> None:
    made = _carried_out(CodebookStep(bits=4, grid="int8"))
    book = _codebook(made, "conv1")
    scale = book.grid_scale
    assert scale is not None
    with torch.no_grad():
        book.centroids += 0.37 * scale
        book.centroids[0] = -500 * scale
    integers = weight_of(made, "conv1") / scale
    assert torch.equal(integers.round() * scale, weight_of(made, "conv1"))
    assert integers.min() == -127
    made.train()(torch.rand(2, *DIGIT)).sum().backward()
    assert book.centroids.grad is not None
    assert book.centroids.grad.abs().sum() > 0


# Cost.


@pytest.mark.parametrize(
    ("bits", "granularity", "density"),
    [(1, "per_layer", None), (3, "per_layer", 0.1), (8, "per_channel", 0.5)],
)
def test_predicted_bytes_are_an_upper_bound_of_the_packed_file(bits: int, granularity: Any, density: Any) -> None:
    steps = [] if density is None else [SparsityStep(density=density)]
    plan = CompressionPlan((*steps, CodebookStep(bits=bits, granularity=granularity)))
    file = export_onnx(_carried_out(*plan.steps), DIGIT)
    predicted = plan.predict(_profile()).cost()
    assert 0.3 * predicted.file_bytes < len(pack(file)) <= predicted.file_bytes
    assert predicted.resident_bytes is not None
    assert len(file) <= predicted.resident_bytes


def test_the_file_keeps_values_shared_with_batchnorm_beside_them() -> None:
    made = _carried_out(CodebookStep(bits=4))
    file = export_onnx(made, DIGIT)
    inputs = np.random.default_rng(0).normal(size=(8, *DIGIT)).astype(np.float32)
    with torch.no_grad():
        expected = made(torch.from_numpy(inputs)).numpy()
    assert np.allclose(run_onnx(file, inputs), expected, atol=1e-4 * np.abs(expected).max())
    how = {tensor.name: tensor.how for tensor in packed(file).tensors if tensor.plain_bytes > 3000}
    assert how
    assert all("palette of 1" in text for text in how.values()), how  # 15 or 16 values
    assert unpack(pack(file)) == file


@pytest.mark.parametrize("compression", [4.0, 6.0, 9.0])
def test_projection_keeps_the_bytes_closely(compression: float) -> None:
    profile = _profile()
    limits = Limits(file_bytes=int(profile.cost().file_bytes / compression))
    for bits, step in ((8, CodebookStep()), (1, CodebookStep()), (3, CodebookStep(granularity="per_channel"))):
        start = step.proposed({"bits": bits}, profile)
        cost = start.project(profile, limits).predict(profile).cost()
        assert limits.keeps(cost)
        assert limits.usage(cost) > 0.95


def test_bits_that_the_user_has_set_are_not_raised() -> None:
    profile = _profile()
    limits = Limits(file_bytes=int(profile.cost().file_bytes / 4))
    layers = CodebookStep(bits=4).project(profile, limits).layers
    assert layers is not None
    assert set(layers.values()) == {4}
    tighter = CodebookStep(bits=4).project(profile, Limits(file_bytes=int(profile.cost().file_bytes / 9))).layers
    assert tighter is not None
    assert max(tighter.values()) <= 4
    assert min(tighter.values()) < 4


def test_nor_are_those_of_single_layers() -> None:
    profile = _profile()
    named = {name: 3 + place % 3 for place, name in enumerate(CodebookStep()._bits(profile))}
    loose, tight = (Limits(file_bytes=int(profile.cost().file_bytes / ratio)) for ratio in (2, 8))
    assert CodebookStep(layers=named).project(profile, loose).layers == named
    fewer = CodebookStep(layers=named).project(profile, tight).layers
    assert fewer is not None
    assert all(fewer[name] <= bits for name, bits in named.items())
    assert fewer != named
    proposed = CodebookStep().proposed({f"bits/{name}": 2 for name in named}, profile).project(profile, loose).layers
    assert proposed is not None
    assert max(proposed.values()) > 2


def test_one_plan_is_written_in_one_way_whatever_bits_were_proposed() -> None:
    profile = profile_of(zoo("resnet20", (3, 32, 32)), (3, 32, 32))
    limits = Limits(file_bytes=profile.cost().file_bytes // 6)
    made = [CodebookStep().proposed({"bits": bits}, profile).project(profile, limits) for bits in (1, 2, 3, 4, 5)]
    assert len({str(step.layers) for step in made}) == len({step.model_dump_json() for step in made}) < 5
    assert CodebookStep(bits=6).project(profile, limits).bits == 6, "the user's"


def test_flash_has_tables_beside_indices_of_up_to_four_bits() -> None:
    """As `integer.codebook` makes them; beyond that, a device has the weights as bytes."""
    whole = QuantizationStep().predict(_profile()).cost().flash_bytes
    elements = sum(layer.cost(_profile().widths()).parameters for layer in _profile().layers)

    def flash(bits: int) -> int:
        plan = CompressionPlan((CodebookStep(bits=bits, grid="int8"), QuantizationStep()))
        return plan.predict(_profile()).cost().flash_bytes or 0

    layers = len(CodebookStep()._bits(_profile()))
    assert flash(4) - flash(3) == layers * (16 - 8), "bytes of the tables alone"
    assert flash(3) < (whole or 0) - elements // 3
    assert {flash(bits) for bits in (5, 6, 7, 8)} == {whole}


def test_the_largest_layers_lose_bits_first() -> None:
    profile = _profile()
    limits = Limits(file_bytes=int(profile.cost().file_bytes / 6))
    bits = CodebookStep(bits=8).project(profile, limits).layers
    assert bits is not None
    elements = {layer.name: layer.cost(profile.widths()).macs // layer.positions for layer in profile.layers}
    by_size = sorted(bits, key=lambda name: elements[name])
    assert [bits[name] for name in by_size] == sorted(bits.values(), reverse=True)


def test_macs_and_impossible_bytes_are_refused_with_what_can_be_reached() -> None:
    profile = _profile()
    with pytest.raises(
        UserError, match=r"MACs are over the limit of 1,000, and stay as they are: .* channels or blocks"
    ):
        CodebookStep().project(profile, Limits(macs=1000))
    with pytest.raises(
        UserError, match=r"codebook: with 1 bit a weight [\d,]+ bytes are over .* reachable: compression \d"
    ):
        CodebookStep().project(profile, Limits(file_bytes=100))
    assert CodebookStep(bits=5).project(profile, Limits(macs=10**9)) == CodebookStep(bits=5)


def test_search_varies_bits_layer_by_layer_in_shallow_networks_and_together_in_deep_ones() -> None:
    shallow = CodebookStep().space(_profile())
    assert set(shallow) == {f"bits/{layer.name}" for layer in _profile().layers}
    step = CodebookStep().proposed({key: 1 + i % 8 for i, key in enumerate(shallow)}, _profile())
    assert step.layers is not None
    assert set(step.layers.values()) <= set(range(1, 9))
    deep = profile_of(zoo("resnet20", (3, 32, 32)), (3, 32, 32))
    assert set(CodebookStep().space(deep)) == {"bits"}
    assert CodebookStep().proposed({"bits": 3}, deep).bits == 3


def test_what_the_user_sets_is_left_alone_and_layers_that_are_gone_are_not_looked_at() -> None:
    profile = _profile()
    assert CodebookStep(layers={"conv1": 3}).space(profile) == {}
    assert set(CodebookStep(bits=5).space(profile)) == {"bits"}
    spared = CodebookStep(pinned=("conv1",), tuned="weights")
    space = spared.space(profile)
    assert "bits/conv1" not in space
    step = spared.proposed({**dict.fromkeys(space, 2), "bits/removed": 2}, profile)
    assert step.tuned == "weights"
    assert step.predict(profile).layer("linear").stored_bits == 2
    assert step.predict(profile).layer("conv1").stored_bits == 32


# In plans.


@pytest.mark.parametrize("grid", ["float", "int8"])
def test_replayed_on_a_fresh_network_it_takes_the_state(grid: Any) -> None:
    plan = CompressionPlan((SparsityStep(density=0.5), CodebookStep(bits=3, grid=grid)))
    made, pinned = plan.carry_out(zoo("resnet8", DIGIT), TASK, SOME)
    again: nn.Module = copy.deepcopy(zoo("resnet8", DIGIT))
    for parameter in again.parameters():
        nn.init.normal_(parameter)
    for step in CompressionPlan.from_json(pinned.to_json()).steps:
        again = step.apply(again, TASK)
    again.load_state_dict(made.state_dict())
    inputs = torch.rand(2, *DIGIT)
    assert torch.equal(again.eval()(inputs), made.eval()(inputs))
    assert len(pinned.to_json()) < 2000


def test_quantization_takes_the_integers_of_the_grid() -> None:
    """int8 weights in the file are the codebook's integers, up to the sign that a folded BatchNorm gives a channel."""
    plan = CompressionPlan((SparsityStep(density=0.3), CodebookStep(bits=4, grid="int8"), QuantizationStep()))
    made = _carried_out(*plan.steps)
    onnx_file = export_onnx(made, DIGIT)
    stored = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(onnx_file).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    books = [module for module in made.modules() if isinstance(module, Codebook)]
    assert len(stored) == len(books) == 8
    for book in books:
        assert book.grid_scale is not None
        integers = set((book.values() / book.grid_scale).round().abs().int().flatten().tolist())
        assert any(set(np.abs(weight.astype(int)).flatten().tolist()) <= integers for weight in stored)
    assert len(pack(onnx_file)) <= plan.predict(_profile()).cost().file_bytes


@pytest.mark.parametrize(("name", "shape"), WHOLE_ZOO)
def test_every_network_of_the_zoo(name: str, shape: tuple[int, ...]) -> None:
    network = zoo(name, shape)
    made = CodebookStep(bits=4).pin(network, _task(shape), NO_DATA).apply(network, _task(shape))
    for name in profile_of(network, shape).products():
        _shares_values(weight_of(network, name).detach(), weight_of(made, name).detach(), bits=4)
    assert torch.equal(bare(made)(torch.ones(1, *shape)), made(torch.ones(1, *shape)))


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_networks(name: str) -> None:
    network, shape = odd(name)
    task = _task(shape)
    step = CodebookStep(bits=2, granularity="per_channel").pin(network, task, NO_DATA)
    made = step.apply(network, task)
    assert step.layers
    for layer in step.layers:
        for was, now in zip(weight_of(network, layer).detach(), weight_of(made, layer).detach(), strict=True):
            _shares_values(was, now, bits=2)
    assert made(torch.ones(1, *shape)).isfinite().all()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(Mistakes, match="codebook after codebook: the weights share values already"):
        CompressionPlan((CodebookStep(), CodebookStep()))
    for later in (SparsityStep(density=0.5), ChannelsStep(widths={})):
        with pytest.raises(Mistakes, match=f"{later.kind} after codebook"):
            CompressionPlan((CodebookStep(), later))
    with pytest.raises(Mistakes) as mistakes:
        CodebookStep(layers={"nowhere": 4, "conv1": 2}, pinned=("conv1", "lost*")).predict(_profile())
    assert [line.split(":")[0] for line in mistakes.value.lines] == [
        "codebook.pinned", "codebook.layers.nowhere", "codebook.layers.conv1",
    ]  # fmt: skip
    with pytest.raises(Mistakes, match="no layer is left"):
        CodebookStep(pinned=("*",)).predict(_profile())
    with pytest.raises(UserError, match="bits"):
        CompressionPlan.from_json('[{"kind": "codebook", "bits": 9}]')


def test_pinned_layers_keep_their_weights() -> None:
    made = _carried_out(CodebookStep(bits=2, pinned=("conv1",)))
    assert not laid_on(made, "conv1")
    assert laid_on(made, "linear")


def test_it_has_no_parts() -> None:
    """A plan has one codebook step at most."""
    step = CodebookStep(bits=3)
    assert step.by_layers(_profile(), 4) == step.in_portions(_profile(0), 4) == (step,)


def test_codebooks_of_a_shared_weight_stay_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x))

    network = Twice()
    lay_on(network, "first", Codebook(network.first.weight, Form(bits=2)))
    assert torch.equal(network.first.weight, network.second.weight)
    assert len(network.second.weight.unique()) <= 4
