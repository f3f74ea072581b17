"""The packed container: every file comes back to the byte; sizes against formulas; damage is said."""

import math
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pocketpipe.errors import UserError
from pocketpipe.exporting.encodings import decode, encode
from pocketpipe.exporting.files import pack_file
from pocketpipe.exporting.packing import pack, packed, unpack
from pocketpipe.exporting.protobuf import tensor_spans

RNG = np.random.default_rng(0)


def model_of(*tensors: TensorProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([], "graph", [], [], list(tensors)))


def file_of(**arrays: np.ndarray) -> bytes:
    return model_of(*(numpy_helper.from_array(array, name) for name, array in arrays.items())).SerializeToString()


def sparse(size: int, share: float, values: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """float32 array of which `share` is not zero, drawn from `values` or normal."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=size) if values is None else rng.choice(values, size)
    return np.where(rng.random(size) < share, drawn, 0.0).astype(np.float32)


def stored(array: np.ndarray) -> tuple[int, str]:
    """(bytes, how) of one array."""
    form = encode(array.tobytes(), array.dtype.itemsize, len(array))
    assert decode(form.data, array.nbytes) == array.tobytes()
    return len(form.data), form.how


# Lossless.

DTYPES = ["f4", "f2", "f8", "i1", "u1", "i2", "i4", "i8", "?"]


@st.composite
def models(draw: st.DrawFn) -> bytes:
    tensors = []
    for position in range(draw(st.integers(0, 5))):
        dtype = draw(st.sampled_from(DTYPES))
        size = draw(st.sampled_from([0, 1, 7, 64, 1000, 5000]))
        rng = np.random.default_rng(draw(st.integers(0, 9)))
        values = rng.normal(size=draw(st.sampled_from([1, 2, 15, 16, 300])), scale=50)
        array = np.where(rng.random(size) < draw(st.sampled_from([0.05, 0.5, 1.0])), rng.choice(values, size), 0)
        array = array.reshape(draw(st.sampled_from([(-1,), (size // 8 or 1, -1)])) if size % 8 == 0 and size else (-1,))
        tensors.append(numpy_helper.from_array(array.astype(dtype), f"w{position}"))
    return model_of(*tensors).SerializeToString()


@settings(max_examples=60, deadline=None)
@given(models())
def test_models_come_back(file: bytes) -> None:
    once = pack(file)
    assert unpack(once) == file
    assert pack(file) == once


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([0.5, 1, 2, 4, 8]), st.integers(0, 9))
def test_any_bytes_come_back(content: bytes, element_size: float, rows: int) -> None:
    assert unpack(pack(content)) == content
    assert decode(encode(content, element_size, rows).data, len(content)) == content


def test_cut_off_and_changed_files_come_back_too() -> None:
    file = file_of(a=sparse(3000, 0.2), b=RNG.normal(size=500).astype(np.float32))
    for end in range(0, len(file), 997):
        assert unpack(pack(file[:end])) == file[:end]
    for place in range(0, 60):
        changed = bytearray(file)
        changed[place] ^= 0x15
        assert unpack(pack(bytes(changed))) == bytes(changed)


def typed_fields() -> onnx.ModelProto:
    values = sparse(4000, 0.1)
    return model_of(
        helper.make_tensor("float", TensorProto.FLOAT, [4000], values.tolist()),
        helper.make_tensor("double", TensorProto.DOUBLE, [4000], values.tolist()),
        helper.make_tensor("int64", TensorProto.INT64, [300], list(range(300))),
        helper.make_tensor("half", TensorProto.FLOAT16, [300], values[:300].tolist()),
        helper.make_tensor("int4", TensorProto.INT4, [301], RNG.integers(-8, 8, 301).tolist()),
    )


def raw_small_integers() -> onnx.ModelProto:
    codes = np.clip(np.round(RNG.normal(size=9001, scale=2)), -8, 7)
    return model_of(
        numpy_helper.from_array(codes.astype(ml_dtypes.int4), "int4"),
        numpy_helper.from_array((codes + 8).astype(ml_dtypes.uint4), "uint4"),
        numpy_helper.from_array(codes.astype(ml_dtypes.bfloat16), "bfloat16"),
    )


def within_nodes() -> onnx.ModelProto:
    """Constants within attributes, graphs within nodes, sparse tensors."""
    table = numpy_helper.from_array(sparse(2000, 0.1), "table")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2000])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=table)], "branch", [], [output])
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    made = helper.make_model(helper.make_graph([choice], "graph", [], []))
    few = numpy_helper.from_array(np.repeat(np.float32([1, 2]), 500), "few")
    where = numpy_helper.from_array(np.arange(1000, dtype=np.int64), "where")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(few, where, [4000]))
    return made


@pytest.mark.parametrize("made", [typed_fields, raw_small_integers, within_nodes])
def test_every_way_of_writing_numbers_is_found_and_comes_back(made: Callable[[], onnx.ModelProto]) -> None:
    file = made().SerializeToString()
    assert unpack(pack(file)) == file
    assert len(pack(file)) < 0.6 * len(file)


def test_spans_are_the_tensors_contents() -> None:
    arrays = {"a": sparse(100, 0.5), "b": RNG.integers(0, 9, 50).astype(np.int8)}
    file = file_of(**arrays)
    found = {span.name: file[span.start : span.end] for span in tensor_spans(file)}
    assert found == {name: array.tobytes() for name, array in arrays.items()}


def test_bit_patterns_are_kept() -> None:
    odd = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, 1e-45] * 200, np.float32)
    file = file_of(odd=odd)
    assert unpack(pack(file)) == file


# How, and how small.


def test_many_distinct_values_stay_plain() -> None:
    values = RNG.normal(size=50_000).astype(np.float32)
    assert stored(values) == (values.nbytes + 1, "plain")


def test_a_palette_of_equally_frequent_values_is_bit_packed() -> None:
    values = np.tile(RNG.normal(size=16).astype(np.float32), 4000)
    size, how = stored(RNG.permutation(values))
    assert how == "palette of 16, 4 bits"
    assert size == len(values) // 2 + 16 * 4 + 5


def test_uneven_values_are_huffman_coded_close_to_the_entropy_bound() -> None:
    centroids = np.linspace(-1, 1, 16).astype(np.float32)
    shares = np.exp(-8 * centroids.astype(float) ** 2)
    shares /= shares.sum()
    values = RNG.choice(centroids, 200_000, p=shares)
    observed = np.unique(values, return_counts=True)[1] / len(values)
    entropy = float(-(observed * np.log2(observed)).sum())
    size, how = stored(values)
    assert "Huffman" in how
    assert entropy <= 8 * size / len(values) <= 1.02 * entropy + 8 * 80 / len(values)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_many_left_over_take_a_bit_each(share: float) -> None:
    values = sparse(40_000, share)
    size, how = stored(values)
    assert how == "bitmask + plain" if share == 0.5 else how.endswith("+ plain")
    assert size <= 40_000 // 8 + 4 * np.count_nonzero(values) + 4


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_few_left_over_take_gaps_near_the_entropy_of_where_they_are(share: float) -> None:
    values = sparse(200_000, share)
    size, how = stored(values)
    where = 200_000 * -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
    assert how.startswith("gaps")
    assert size - 4 * np.count_nonzero(values) < 1.06 * where + 100


def test_zeros_come_out_before_the_palette() -> None:
    size, how = stored(sparse(100_000, 0.1, np.linspace(-1, 1, 15)))
    assert how.startswith("gaps")
    assert "palette of 14" in how
    assert size < 100_000 * (0.469 * 1.06 + 0.1 * 4.05) / 8 + 200


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_rows_with_tables_of_their_own_have_palettes_of_their_own(share: float) -> None:
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(32, 16))
    values = np.take_along_axis(tables, rng.integers(0, 16, (32, 1000)), axis=1)
    values = np.where(rng.random(values.shape) < share, values, 0).astype(np.float32)
    size, how = stored(values)
    assert "32 palettes of up to 16" in how
    assert size < 32 * 16 * 4 + 32_000 * share / 2 + (32_000 / 8 if share < 1 else 0) + 100


def test_the_bytes_add_up_and_headers_are_small() -> None:
    file = file_of(**{f"layer{i}.weight": sparse(5000, 1, np.linspace(-1, 1, 16), i) for i in range(60)})
    made = packed(file)
    assert sum(tensor.stored_bytes for tensor in made.tensors) + made.graph_bytes < len(made.data)
    assert len(made.data) - sum(tensor.stored_bytes for tensor in made.tensors) < 1500
    assert sum(tensor.plain_bytes for tensor in made.tensors) == 60 * 5000 * 4


def test_it_is_a_safetensors_file_with_larger_tensors_by_name(tmp_path: Path) -> None:
    file = file_of(large=RNG.normal(size=3000).astype(np.float32), small=RNG.normal(size=30).astype(np.float32))
    (tmp_path / "packed.safetensors").write_bytes(pack(file))
    tensors = safetensors.numpy.load_file(tmp_path / "packed.safetensors")
    assert set(tensors) == {"graph", "0 large", "rest"}
    with safetensors.safe_open(tmp_path / "packed.safetensors", "np") as opened:
        assert len(file) == int(opened.metadata()["pocketpipe"].rpartition(" ")[2])


# What is wrong is said.


@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"no such file" * 9, safetensors.numpy.save({"w": np.zeros(9, np.float32)})]
)
def test_foreign_files_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(UserError, match="not a file that pocketpipe packed") as error:
        unpack(content)
    assert "\n" not in str(error.value)


def test_weights_in_files_beside_it_are_not_left_behind_in_silence(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "weight")
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "g", [shape], [out], [weight])
    file = tmp_path / "model.onnx"
    onnx.save_model(helper.make_model(graph), file, save_as_external_data=True, size_threshold=0)
    with pytest.raises(UserError, match=r"model\.onnx: weights lie in other files beside it"):
        pack_file(file, None, overwrite=False)
    assert not (tmp_path / "model.packed.safetensors").exists()


def test_another_version_is_named() -> None:
    made = pack(b"x").replace(b"packed onnx 1", b"packed onnx 2")
    with pytest.raises(UserError, match="packed by another version: 'pocketpipe packed onnx 2'"):
        unpack(made)


def test_a_damaged_file_gives_the_right_bytes_or_an_error_of_one_line() -> None:
    """Only what means nothing may change unnoticed: a tensor's name, the bits that fill up a byte."""
    file = file_of(a=sparse(4000, 0.1, np.linspace(-1, 1, 15)), b=sparse(3000, 1, np.linspace(-1, 1, 7)))
    made = pack(file)
    noticed, places = 0, range(8, len(made), 17)
    for place in places:
        changed = bytearray(made)
        changed[place] ^= 0x21
        try:
            assert unpack(bytes(changed)) == file
        except UserError as error:
            noticed += "\n" not in str(error)
    assert noticed > 0.95 * len(places)


def test_a_cut_off_file_is_refused() -> None:
    made = pack(file_of(a=sparse(4000, 0.1)))
    for end in range(0, len(made), 101):
        with pytest.raises(UserError):
            unpack(made[:end])
