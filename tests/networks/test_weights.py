"""What users bring as weights, and what must not get in."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from own.keywords import Gru
from pocketpipe.errors import UserError
from pocketpipe.network import NETWORKS, StoredNetwork, load_weights
from pocketpipe.networks.weights import read_weights
from pocketpipe.tasks.digits import Digits

STATE = {"conv.weight": torch.arange(6.0).view(2, 3), "conv.bias": torch.ones(2)}


class Trap:
    """Unpickling it would run code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def _same(found: dict[str, torch.Tensor]) -> bool:
    return set(found) == set(STATE) and all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    assert _same(read_weights(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"epoch": 3, "model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "scheduler": {}},
        {"state_dict": STATE, "ema": {name: tensor + 1 for name, tensor in STATE.items()}},
    ],
    ids=["plain", "wrapped", "checkpoint", "one of two"],
)
def test_state_dicts(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert _same(read_weights(tmp_path / "w.pth"))


def test_the_old_format_of_torch_save(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert _same(read_weights(tmp_path / "w.pth"))


def _refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_weights(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, zipped: bool) -> None:
    mark, path = tmp_path / "mark", tmp_path / "w.pth"
    torch.save({"conv.weight": Trap(mark)}, path, _use_new_zipfile_serialization=zipped)
    assert "could run code" in _refusal(path)
    assert not mark.exists()


def test_a_bare_pickle(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(Trap(mark)))
    assert "could run code" in _refusal(path)
    assert not mark.exists()


def test_a_whole_pickled_network(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    assert "state_dict" in _refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_files_that_are_cut_off(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"w.{ending}"
    save_file(STATE, path) if ending == "safetensors" else torch.save(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    _refusal(path)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_something_else(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w.{ending}"
    path.write_text("accuracy: 93.4 %\n")
    _refusal(path)


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "w.pth")
    assert "a list" in _refusal(tmp_path / "w.pth")


def test_a_checkpoint_without_weights_of_its_own_or_with_several(tmp_path: Path) -> None:
    torch.save({"epoch": 3, **STATE}, tmp_path / "w.pth")
    assert "of its entries (epoch, " in _refusal(tmp_path / "w.pth")
    assert "'epoch' is a int, no tensor" in _refusal(tmp_path / "w.pth")
    torch.save({"model": STATE, "ema": STATE}, tmp_path / "w.pth")
    assert "several have weights (model, ema)" in _refusal(tmp_path / "w.pth")


@pytest.mark.parametrize("before", ["model.", "module.", "_orig_mod.", "_orig_mod.module.net."])
def test_words_before_all_names_are_taken_off(before: str) -> None:
    """Lightning's, torch.compile's, and those of a class around the network."""
    network, other = (nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)) for _ in range(2))
    load_weights(network, {f"{before}{name}": tensor for name, tensor in other.state_dict().items()}, of="mine")
    assert _equal(network.state_dict(), other.state_dict())


def test_words_that_are_the_networks_own_stay() -> None:
    network, other = (nn.ModuleDict({"module": nn.Linear(3, 2)}) for _ in range(2))
    load_weights(network, other.state_dict(), of="mine")
    assert _equal(network.state_dict(), other.state_dict())
    with pytest.raises(UserError, match=r"missing: module\.bias, module\.weight; unknown: net\.0\.bias, net\.1\.bias"):
        load_weights(network, {"net.0.bias": torch.ones(2), "net.1.bias": torch.ones(2)}, of="mine")


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "none.safetensors")
    assert "a folder" in _refusal(tmp_path)


def old_weight_norm(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Its weight is computed by a hook and kept."""
    return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, outputs)))


def test_weights_that_are_kept_as_results_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"1\.weight is computed .*remove_weight_norm"):
        StoredNetwork(f"{__name__}:old_weight_norm").build(Digits())


def lazy(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """torch finds the widths by itself when it runs."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(outputs))


class Blurring(nn.Module):
    """Its buffer is one kernel, seen once for each channel."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("blur", torch.full((1, 1, 3), 1 / 3).expand(4, 1, 3))
        self.conv, self.head = nn.Conv1d(8, 4, 3), nn.Linear(4, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv1d(self.conv(x.flatten(1, 2)), self.blur, groups=4)
        return self.head(x.mean(-1))


def blurring(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A factory."""
    return Blurring(outputs)


@pytest.mark.parametrize("factory", ["lazy", "blurring"])
def test_a_network_that_is_built_can_be_stored_and_loaded(factory: str) -> None:
    stored = StoredNetwork(f"{__name__}:{factory}")
    network = stored.build(Digits())
    again = stored.with_weights(network).build(Digits())
    assert _equal(network.state_dict(), again.state_dict())


def test_weights_of_an_unrolled_network_may_have_words_before_all_names() -> None:
    """Its own names are found first, those of torch's module then."""
    network = NETWORKS.resolve("own.keywords:gru")((1, 16, 10), 8)
    given = Gru(10, 8, 24).state_dict()
    load_weights(network, {f"model.{name}": tensor for name, tensor in given.items()}, of="gru")
    x = torch.randn(2, 1, 16, 10, generator=torch.Generator().manual_seed(0))
    plain = Gru(10, 8, 24)
    plain.load_state_dict(given)
    with torch.no_grad():
        assert torch.allclose(network.eval()(x), plain.eval()(x), atol=1e-5)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = nn.Linear(4, 4), nn.Linear(4, 4)
        self.exit.weight = self.entry.weight


def test_of_tied_weights_a_file_may_hold_one(tmp_path: Path) -> None:
    saved, loaded = Tied(), Tied()
    save_model(saved, str(tmp_path / "w.safetensors"))
    state = read_weights(tmp_path / "w.safetensors")
    assert len(state) == 3
    load_weights(loaded, state, of="tied")
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.exit.weight is loaded.entry.weight


def test_weights_of_any_type_have_a_digest() -> None:
    state = {"w": torch.arange(4.0)}
    digests = {
        StoredNetwork("lenet", state={"w": state["w"].to(kind)}).digest()
        for kind in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)
    }
    assert len(digests) == 5
