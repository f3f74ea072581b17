"""What `auto` decides, from sizes and from what the machine has."""

import logging

import pytest
import torch
from torch import nn

from elsewhere import DEVICE, elsewhere
from pocketpipe.compression.modules import device_of
from pocketpipe.errors import UserError
from pocketpipe.training import device
from pocketpipe.training.compilation import compiled_forward
from pocketpipe.training.device import accelerator, cpu_threads, decide, example_macs
from pocketpipe.training.features import Watched
from pocketpipe.training.recipe import TrainerSettings
from training.samples import plain

CPU = TrainerSettings(accelerator="cpu")


def test_macs_of_a_known_network() -> None:
    assert example_macs(plain((1, 6, 6), 4), (1, 6, 6)) == 36 * 6 * 9 + 216 * 4


@pytest.mark.parametrize(("native", "macs", "expected"), [(True, 41e6, True), (True, 8e5, False), (False, 41e6, False)])
def test_bf16_where_it_is_native_and_the_network_large(
    monkeypatch: pytest.MonkeyPatch, native: bool, macs: float, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert decide(CPU, int(macs), 128, 100).bf16 is expected
    assert decide(CPU.model_copy(update={"precision": "bf16"}), int(macs), 128, 100).bf16
    assert not decide(CPU.model_copy(update={"precision": "fp32"}), int(macs), 128, 100).bf16


def test_compiled_where_it_pays_and_a_compiler_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/bin/{name}")
    assert not decide(CPU, 41_000_000, 128, 350).compiled
    assert decide(CPU, 41_000_000, 128, 350 * 40).compiled
    assert decide(CPU, 41_000_000, 128, 350 * 2, rounded=True).compiled
    assert not decide(CPU, 800_000, 64, 18 * 40, rounded=True).compiled, "digits: seconds"
    assert not decide(CPU.model_copy(update={"compile": "never"}), 41_000_000, 128, 350 * 40).compiled
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    with caplog.at_level(logging.INFO):
        assert not decide(CPU.model_copy(update={"compile": "always"}), 1, 1, 1).compiled
    assert "no" in decide(CPU, 1, 1, 1).facts["compiled"]
    assert caplog.text.count("training runs uncompiled") == 1


def test_a_gpu_that_only_the_driver_sees_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert accelerator(TrainerSettings()) == "cpu"
    with pytest.raises(UserError, match="sees no GPU"):
        accelerator(TrainerSettings(accelerator="gpu"))


def test_what_a_gpu_cannot_hold_is_computed_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    devices: list[torch.device] = []

    def compute(network: nn.Module) -> float:
        devices.append(device_of(network))
        if devices[-1] == DEVICE:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
        return float(network(torch.ones(1, 2)).detach().sum())

    network = nn.Linear(2, 1)
    expected = float(network(torch.ones(1, 2)).detach().sum())
    monkeypatch.setattr(device, "_device", lambda _: DEVICE)
    with elsewhere(monkeypatch):
        assert device.computed(TrainerSettings(), network, compute) == expected
    assert devices == [DEVICE, torch.device("cpu")]
    assert "computed on the CPU: CUDA out of memory. Tried to allocate 2.00 GiB" in caplog.text
    assert "more" not in caplog.text


def test_one_thread_for_batches_too_small_to_share() -> None:
    assert decide(CPU, 800_000, 64, 100).threads == 1
    assert decide(CPU, 41_000_000, 128, 100).threads is None
    assert decide(TrainerSettings(accelerator="cpu", devices=2, threads=6), 800_000, 64, 100).threads == 3


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_compiler_that_fails_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **options: object) -> object:
        def run(batch: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no linker\nmany more lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    inputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    with caplog.at_level(logging.INFO):
        forward = compiled_forward(Watched(network), [inputs])
    assert "torch.compile failed (no linker): training runs uncompiled" in caplog.text
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(forward(inputs)[0], nn.functional.batch_norm(network[0](inputs), None, None, training=True))


@pytest.mark.slow
def test_compiled_is_the_same_function() -> None:
    network = plain((1, 6, 6), 4)
    inputs = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    forward = compiled_forward(Watched(network), [inputs])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.allclose(forward(inputs)[0], network(inputs), atol=1e-5)


@torch.no_grad()
def test_fused_operators_are_counted_too() -> None:
    """An encoder layer: four projections, attention, two layers of the MLP; an LSTM: four gates of input and state."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    assert example_macs(encoder, (5, 8)) == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8
    assert example_macs(nn.LSTM(3, 4, batch_first=True), (5, 3)) >= 5 * 16 * (3 + 4)
    assert torch.backends.mha.get_fastpath_enabled()
