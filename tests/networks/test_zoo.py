"""The zoo against published figures and against ONNX's own recurrent operator."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS, load_weights
from pocketpipe.networks.weights import read_weights

SMALL, LARGE = (3, 32, 32), (3, 224, 224)
CIFAR_RESNETS = ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56")
OTHERS = ("resnet8_mlperf_tiny", "airbench", "lenet", "mobilenet_v1", "mobilenet_v2", "resnet18", "resnet50", "vit")
FOR_IMAGES = (*CIFAR_RESNETS, *OTHERS)

PUBLISHED = [
    # network, input, classes, parameters: torchvision's model pages, MLPerf Tiny, the papers
    ("resnet18", LARGE, 1000, 11_689_512),
    ("resnet50", LARGE, 1000, 25_557_032),
    ("mobilenet_v1", LARGE, 1000, 4_231_976),
    ("mobilenet_v2", LARGE, 1000, 3_504_872),
    ("resnet20", SMALL, 10, 269_722),
    ("resnet56", SMALL, 10, 853_018),
    ("lenet", (1, 28, 28), 10, 61_706),
]


def test_every_network_is_behind_the_door() -> None:
    assert set(FOR_IMAGES) | {"gru"} <= set(NETWORKS.names())


@pytest.mark.parametrize("name", FOR_IMAGES)
@pytest.mark.parametrize("shape", [(1, 8, 8), SMALL])
def test_image_networks_work_for_digits_and_for_photographs(name: str, shape: tuple[int, ...]) -> None:
    network = NETWORKS.resolve(name)(shape, 7).eval()
    with torch.no_grad():
        assert network(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("name", "shape", "outputs", "parameters"), PUBLISHED)
def test_parameters_are_as_published(name: str, shape: tuple[int, ...], outputs: int, parameters: int) -> None:
    network = NETWORKS.resolve(name)(shape, outputs)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_the_benchmarks_resnet8_holds_as_many_values_as_published() -> None:
    network = NETWORKS.resolve("resnet8_mlperf_tiny")(SMALL, 10)  # Keras counts running statistics too
    held = sum(v.numel() for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked"))
    assert held == 78_666


@pytest.mark.parametrize(("name", "gmacs"), [("resnet18", 1.814), ("mobilenet_v2", 0.3008), ("mobilenet_v1", 0.5687)])
def test_large_images_cost_what_is_published(name: str, gmacs: float) -> None:
    network = NETWORKS.resolve(name)(LARGE, 1000).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *LARGE))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=1e-3)


def test_small_resnets_have_the_published_keys() -> None:
    keys = set(NETWORKS.resolve("resnet8")((1, 8, 8), 10).state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer3.0.conv2.weight", "layer2.0.bn1.bias", "linear.bias"} <= keys
    assert not [key for key in keys if "shortcut" in key]


@pytest.mark.parametrize("name", FOR_IMAGES)
def test_a_sequence_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"network '{name}' reads images"):
        NETWORKS.resolve(name)((8, 8), 10)


def test_what_comes_in_goes_through_an_untrained_airbench() -> None:
    group = NETWORKS.resolve("airbench")(SMALL, 10).groups[1]
    x = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(group.conv1(x)[:, :64], x)
        assert group.conv1(x)[:, 64:].std() > 0.1


def test_airbench_refuses_images_that_cannot_be_halved_three_times() -> None:
    with pytest.raises(UserError, match="7x32 is below 8x8"):
        NETWORKS.resolve("airbench")((3, 7, 32), 10)


def test_an_image_is_refused_by_the_recurrent_network() -> None:
    with pytest.raises(UserError, match="'gru' reads sequences"):
        NETWORKS.resolve("gru")((1, 8, 8), 10)


def test_width_scales_mobilenets() -> None:
    narrow = NETWORKS.resolve("mobilenet_v2")(LARGE, 1000, width=0.5)
    assert sum(parameter.numel() for parameter in narrow.parameters()) == 1_968_680  # published for 0.5


def test_attention_is_torchs_own() -> None:
    own = NETWORKS.resolve("vit")(SMALL, 10, width=12, heads=3).blocks[0].attention
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    projections = [own.query, own.key, own.value]
    state = {
        "in_proj_weight": torch.cat([each.weight for each in projections]),
        "in_proj_bias": torch.cat([each.bias for each in projections]),
        "out_proj.weight": own.out.weight,
        "out_proj.bias": own.out.bias,
    }
    theirs.load_state_dict(state)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own(x), theirs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize(
    ("shape", "options", "line"),
    [
        (SMALL, {"width": 10, "heads": 4}, "4 heads do not divide its width of 10"),
        ((1, 9, 8), {}, "patches of 2 pixels do not divide images of 9 x 8"),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(shape: tuple[int, ...], options: dict[str, int], line: str) -> None:
    with pytest.raises(UserError, match=line):
        NETWORKS.resolve("vit")(shape, 10, **options)


def test_gru_computes_what_onnx_defines() -> None:
    """Cho's cell is ONNX's GRU with linear_before_reset=0; ONNX Runtime runs it from a state of zeros."""
    steps, features, hidden = 5, 3, 4
    network = NETWORKS.resolve("gru")((steps, features), 2, hidden=hidden).eval()
    cell = network.cell
    gates = ("update", "reset", "new")  # ONNX's order: z, r, h
    weight_in = np.concatenate([getattr(cell, f"input_{gate}").weight.detach().numpy() for gate in gates])
    weight_state = np.concatenate([getattr(cell, f"hidden_{gate}").weight.detach().numpy() for gate in gates])
    bias = np.concatenate([getattr(cell, f"input_{gate}").bias.detach().numpy() for gate in gates])
    x = torch.randn(2, steps, features, generator=torch.Generator().manual_seed(0))
    feeds = {
        "X": x.transpose(0, 1).contiguous().numpy(),
        "W": weight_in[None],
        "R": weight_state[None],
        "B": np.concatenate([bias, np.zeros_like(bias)])[None],
    }
    state = _onnx_gru(hidden, feeds)
    with torch.no_grad():
        expected = network.classifier(torch.from_numpy(state)).numpy()
        assert np.abs(network(x).numpy() - expected).max() < 1e-5


def _onnx_gru(hidden: int, feeds: dict[str, np.ndarray]) -> np.ndarray:
    node = onnx.helper.make_node("GRU", ["X", "W", "R", "B"], ["", "Y"], hidden_size=hidden)
    inputs = [onnx.helper.make_tensor_value_info(name, 1, value.shape) for name, value in feeds.items()]
    output = onnx.helper.make_tensor_value_info("Y", 1, None)
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "gru", inputs, [output]), opset_imports=[opset])
    model.ir_version = 9
    runner = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return runner.run(None, feeds)[0][0]


@pytest.mark.parametrize("layers", [20, 56])
def test_published_weights_load(layers: int) -> None:
    folder = os.environ.get("POCKETPIPE_SHARED_DATA")
    if not folder or not (path := Path(folder, "pretrained", f"resnet{layers}-cifar10.safetensors")).is_file():
        pytest.skip("POCKETPIPE_SHARED_DATA does not name a folder with pretrained weights")
    network = NETWORKS.resolve(f"resnet{layers}")(SMALL, 10)
    load_weights(network, read_weights(path), of=f"resnet{layers}")
    assert network.bn1.running_var.ne(1).all()
