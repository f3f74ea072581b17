"""The loader: what it imports, what it accepts, and that it runs what lies in the folder now."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pocketpipe
from pocketpipe.delivery.metadata import DeliveryMetadata
from pocketpipe.delivery.model import Model
from pocketpipe.errors import UserError
from pocketpipe.exporting.onnx import export_onnx
from pocketpipe.targets.base import TARGETS
from pocketpipe.task import Preprocessing
from targets.graphs import examples, metadata, reference, tiny

SHAPE = (3, 8, 8)
RGB = Preprocessing(scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
ONNX = tiny()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("delivery") / "x86_64"
    TARGETS.resolve("x86_64").compile(ONNX, metadata(SHAPE, "x86_64", RGB), folder)
    return folder


def test_loading_needs_no_engine(folder: Path) -> None:
    code = (
        "import sys, numpy, pocketpipe\n"
        f"outputs = pocketpipe.load({str(folder)!r})(numpy.zeros((2, 3, 8, 8), numpy.uint8))\n"
        "assert outputs.shape == (2, 10) and outputs.dtype == numpy.float32\n"
        "print([name for name in ('torch', 'kedro', 'tvm', 'mlflow', 'onnx', 'nni') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_preprocessing_is_part_of_the_delivery(folder: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    delivered = pocketpipe.load(folder)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (RGB.mean, RGB.std))
    expected = reference(ONNX, ((stored.astype(np.float32) / 255 - mean) / std).astype(np.float32))
    np.testing.assert_allclose(delivered(stored), expected, atol=1e-5)
    np.testing.assert_array_equal(delivered.run_prepared(RGB(stored[:1])), delivered(stored)[:1])


def test_empty_batch_gives_no_outputs(folder: Path) -> None:
    assert pocketpipe.load(folder)(np.zeros((0, *SHAPE), np.uint8)).shape == (0, 10)


def test_views_and_other_types_are_accepted(folder: Path) -> None:
    delivered = pocketpipe.load(folder)
    stored = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)
    np.testing.assert_array_equal(delivered(stored[::2].astype(np.float64)), delivered(stored)[::2])


def test_threads_do_not_share_memory(folder: Path) -> None:
    delivered = pocketpipe.load(folder)
    stored = np.random.default_rng(0).integers(0, 256, (400, *SHAPE), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(delivered, np.array_split(stored, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), delivered(stored))


def test_recompiled_folder_is_what_runs(tmp_path: Path) -> None:
    inputs = examples(SHAPE)
    for channels in (3, 6):
        onnx = tiny(channels)
        TARGETS.resolve("x86_64").compile(onnx, metadata(SHAPE, "x86_64"), tmp_path / "out")
        np.testing.assert_allclose(pocketpipe.load(tmp_path / "out")(inputs), reference(onnx, inputs), atol=1e-5)


def test_a_delivery_runs_where_pocketpipe_is_not_there(tmp_path: Path) -> None:
    """`python -I` in an empty folder: the delivered file, the standard library and NumPy."""
    for stored_as, preprocessing in (("uint8", RGB), ("float32", RGB)):
        folder = tmp_path / stored_as
        TARGETS.resolve("x86_64").compile(
            ONNX, metadata(SHAPE, "x86_64", preprocessing).model_copy(update={"input_dtype": stored_as}), folder
        )
        stored = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8).astype(stored_as)
        np.save(tmp_path / "in.npy", stored)
        forbidding = (
            "import sys, runpy; sys.modules['pocketpipe'] = sys.modules['pydantic'] = None; "
            "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        command = [sys.executable, "-I", "-c", forbidding, str(folder / "pocketpipe_model.py"), "in.npy", "out.npy"]
        subprocess.run(command, cwd=tmp_path, check=True)
        expected = pocketpipe.load(folder)(stored)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
        as_in_its_readme = (
            "import numpy, sys; sys.modules['pocketpipe'] = None; from pocketpipe_model import Model; "
            f"numpy.save({str(tmp_path / 'again.npy')!r}, Model()(numpy.load({str(tmp_path / 'in.npy')!r})))"
        )
        assert "from pocketpipe_model import Model" in (folder / "README.md").read_text()
        subprocess.run([sys.executable, "-c", as_in_its_readme], cwd=folder, check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), expected)


def test_the_delivered_file_refuses_what_it_cannot_run(folder: Path, tmp_path: Path) -> None:
    model = Model(folder)
    with pytest.raises(ValueError, match=r"examples have shape \(3, 8, 8\), expected \(N, 3, 8, 8\)"):
        model(np.zeros(SHAPE, np.uint8))
    DeliveryMetadata.read(folder).model_copy(update={"cpu_flags": ("avx2048",)}).write(tmp_path)
    with pytest.raises(RuntimeError, match="a CPU with avx2048"):
        Model(tmp_path)


def test_wrong_shape_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"examples have shape \(3, 8, 8\), expected \(N, 3, 8, 8\)"):
        pocketpipe.load(folder)(np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match="has 3 values, the model takes 192"):
        pocketpipe.load(folder).run_prepared(np.zeros(3, np.float32))


def test_what_numpy_makes_an_array_of_is_taken_by_both_loaders(folder: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 2, (3, *SHAPE), np.uint8)
    for model in (pocketpipe.load(folder), Model(folder)):
        for given in (dark.tolist(), torch.from_numpy(dark), dark.astype(bool)):
            np.testing.assert_array_equal(model(given), model(dark))
        model.run_prepared(RGB(dark[:1]).tolist())


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_library_that_is_written_over_while_it_is_loaded_goes_on_and_the_new_one_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr("pocketpipe.delivery.model._OPEN", {})
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    inputs, folders, models = examples(SHAPE), [], []
    for channels in (3, 6):
        folders.append(tmp_path / str(channels))
        TARGETS.resolve("x86_64").compile(tiny(channels), metadata(SHAPE, "x86_64"), folders[-1])
        models.append(pocketpipe.load(folders[-1]))
    expected = [model(inputs) for model in models]
    for file in ("model.so", "metadata.json"):
        shutil.copy(folders[1] / file, folders[0] / file)
    np.testing.assert_array_equal(pocketpipe.load(folders[0])(inputs), expected[1])
    np.testing.assert_array_equal(models[0](inputs), expected[0])


def test_damaged_files_are_named(tmp_path: Path, folder: Path) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    (damaged / "model.so").write_bytes((folder / "model.so").read_bytes()[:500])
    with pytest.raises(UserError, match=r"damaged/model\.so cannot be loaded: damaged\? Copy it again"):
        pocketpipe.load(damaged)
    with pytest.raises(UserError, match=r"model\.so is no delivery folder"):
        pocketpipe.load(damaged / "model.so")
    (damaged / "metadata.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"damaged/metadata\.json"):
        pocketpipe.load(damaged)


def test_what_is_no_delivery_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"it has no metadata\.json"):
        pocketpipe.load(tmp_path)
    given = DeliveryMetadata.read(folder)
    given.write(tmp_path)
    with pytest.raises(UserError, match=r"it has no model\.so"):
        pocketpipe.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cpu": "aarch64 cortex-a72 +neon"}, "holds code for aarch64, this machine is"),
        ({"cpu_flags": ("avx2048",)}, "compiled for a CPU with avx2048, which this one lacks"),
    ],
)
def test_code_for_another_cpu_is_refused(tmp_path: Path, folder: Path, change: dict[str, object], message: str) -> None:
    DeliveryMetadata.read(folder).model_copy(update=change).write(tmp_path)
    (tmp_path / "model.so").write_bytes((folder / "model.so").read_bytes())
    with pytest.raises(UserError, match=message):
        pocketpipe.load(tmp_path)


def test_broken_metadata_are_listed(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text('{"task": "digits", "colour": 1}')
    with pytest.raises(UserError, match=r"colour: 1 is not an option"):
        DeliveryMetadata.read(tmp_path)


def test_scaled_floats_are_refused_where_integers_are_stored(tmp_path: Path) -> None:
    as_stored = metadata(SHAPE, "x86_64", RGB).model_copy(update={"input_dtype": "uint8"})
    TARGETS.resolve("x86_64").compile(ONNX, as_stored, tmp_path / "out")
    delivered = pocketpipe.load(tmp_path / "out")
    stored = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
    with pytest.raises(UserError, match="examples are float32, expected uint8 as stored"):
        delivered(stored.astype(np.float32) / 255)
    np.testing.assert_array_equal(delivered(stored.astype(np.int64)), delivered(stored))


def test_one_number_for_each_example_comes_without_an_axis(tmp_path: Path) -> None:
    with torch.no_grad():
        onnx_file = export_onnx(Mean().eval(), (4,))
    TARGETS.resolve("x86_64").compile(onnx_file, metadata((4,), "x86_64", Preprocessing()), tmp_path / "one")
    inputs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    outputs = pocketpipe.load(tmp_path / "one")(inputs)
    assert outputs.shape == (7,)
    np.testing.assert_allclose(outputs, inputs.mean(1), atol=1e-6)


class Mean(nn.Module):
    """A network whose output has no axis but the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)
