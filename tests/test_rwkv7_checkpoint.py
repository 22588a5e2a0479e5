import json
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anser.errors import CheckpointError
from anser.rwkv7 import checkpoint
from anser.rwkv7.dims import ModelDims

DIMS = ModelDims(
    n_layer=2, d_model=32, n_vocab=11, head_size=16, d_ffn=96, rank_w=8, rank_a=4, rank_v=6,
    rank_g=12,
)  # fmt: skip


def make_tensors(dims=DIMS, seed=0):
    random = np.random.default_rng(seed)
    return {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in dims.shapes().items()
    }


@pytest.fixture
def tensors():
    return make_tensors()


@pytest.fixture
def path(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, tensors, {"codec": "1"})
    return path


def test_sizes_are_read_from_shapes(tensors):
    assert ModelDims.of(tensors) == DIMS
    assert DIMS.n_head == 2


def test_one_layer_without_value_residual_has_sizes():
    dims = ModelDims.of({n: t for n, t in make_tensors().items() if ".1." not in n[:9]})
    assert dims.n_layer == 1


def test_load_gives_back_what_was_saved(path, tensors):
    loaded = checkpoint.load(path)
    assert loaded.dims == DIMS
    assert loaded.metadata["codec"] == "1"
    assert loaded.metadata["precision"] == "fp32"
    assert json.loads(loaded.metadata["dims"])["n_layer"] == 2
    assert set(loaded.tensors) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)


def test_arrays_are_read_only_and_aligned(path):
    for tensor in checkpoint.load(path).tensors.values():
        assert tensor.flags.aligned
        assert not tensor.flags.writeable


def test_the_safetensors_library_reads_our_files_and_we_read_its(path, tmp_path, tensors):
    theirs = load_file(path)
    assert all(np.array_equal(theirs[n], t) for n, t in tensors.items())
    save_file(tensors, tmp_path / "theirs.safetensors")
    ours = checkpoint.load(tmp_path / "theirs.safetensors").tensors
    assert all(np.array_equal(ours[n], t) for n, t in tensors.items())


def test_opening_reads_no_weights(tmp_path):
    dims = ModelDims(12, 384, 640, 64, 1536, 64, 64, 32, 96)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in dims.shapes().items()}
    checkpoint.save(tmp_path / "m.safetensors", zeros, {})
    seconds = []
    for _ in range(5):
        start = time.process_time()
        checkpoint.load(tmp_path / "m.safetensors")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.02


def test_bfloat16_is_read_as_float32(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x3DCD], np.uint16)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    raw = len(header).to_bytes(8, "little") + header + bits.tobytes()
    (tmp_path / "b.safetensors").write_bytes(raw)
    tensors, metadata = checkpoint.read_tensors(tmp_path / "b.safetensors")
    assert metadata == {}
    np.testing.assert_array_equal(tensors["x"], np.float32([1, -2, 0.10009765625]))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_precisions_round_trip_through_a_file(tmp_path, tensors, precision):
    stored = checkpoint.quantize(tensors, precision)
    checkpoint.save(tmp_path / "q.safetensors", stored, {})
    loaded = checkpoint.load(tmp_path / "q.safetensors")
    assert loaded.dims == DIMS
    assert loaded.metadata["precision"] == checkpoint.precision_of(loaded.tensors) == precision
    full = checkpoint.dequantize(loaded.tensors)
    assert set(full) == set(tensors)
    for name, tensor in tensors.items():
        greatest = np.abs(tensor).max()
        bounds = {"fp32": 0.0, "fp16": 2e-3, "int8": greatest / 250, "int4": greatest / 5}
        bound = bounds[precision]
        assert full[name].dtype == np.float32
        assert np.abs(full[name] - tensor).max() <= bound
    if precision == "int8":
        assert loaded.tensors["blocks.1.ffn.key.weight"].dtype == np.int8
        assert loaded.tensors["blocks.1.ffn.key.weight.scale"].shape == (96,)
        again = checkpoint.quantize(full, "int8")
        assert all(np.array_equal(again[n], t) for n, t in stored.items())


def test_a_row_of_zeros_survives_int8(tensors):
    tensors["head.weight"][3] = 0
    full = checkpoint.dequantize(checkpoint.quantize(tensors, "int8"))
    assert not full["head.weight"][3].any()


def test_fp16_refuses_what_it_cannot_hold(tensors):
    tensors["head.weight"][0, 0] = 1e5
    with pytest.raises(CheckpointError, match=r"head\.weight.*range of fp16"):
        checkpoint.quantize(tensors, "fp16")


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        checkpoint.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("raw", [b"", b"MThd", b"\x08" + b"\0" * 7 + b"notjson!", b"\xff" * 64])
def test_another_kind_of_file(tmp_path, raw):
    (tmp_path / "x").write_bytes(raw)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(tmp_path / "x")


def test_truncated_file(path):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated; copy or download"):
        checkpoint.load(path)


def test_missing_tensor(tmp_path, tensors):
    del tensors["blocks.1.att.w2"]
    checkpoint.write_tensors(tmp_path / "m", tensors, {})
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.att\.w2' expected, not found"):
        checkpoint.load(tmp_path / "m")


def test_not_rwkv7(tmp_path):
    checkpoint.write_tensors(tmp_path / "m", {"a": np.zeros(3, np.float32)}, {})
    with pytest.raises(CheckpointError, match="not an RWKV-7 checkpoint"):
        checkpoint.load(tmp_path / "m")


def test_wrong_shape_names_tensor_expected_found(tensors, tmp_path):
    tensors["blocks.1.att.key.weight"] = np.zeros((31, 32), np.float32)
    with pytest.raises(CheckpointError, match=r"att\.key\.weight' has shape \(31, 32\), expected"):
        checkpoint.save(tmp_path / "m", tensors, {})


def test_wrong_type(tensors, tmp_path):
    tensors["ln_out.bias"] = np.zeros(32, np.int64)
    with pytest.raises(CheckpointError, match=r"ln_out\.bias' has type int64"):
        checkpoint.save(tmp_path / "m", tensors, {})


def test_int4_keeps_odd_rows_and_small_blocks():
    rows = np.random.default_rng(0).standard_normal((7, 32 + 32 + 5)).astype(np.float32)
    rows[:, 32:64] *= 0.1  # a block of its own factor
    rows[3] = 0
    dims = ModelDims(1, 69, 7, 23, 7, 1, 1, 1, 1)
    tensors = {**make_tensors(dims), "head.weight": rows}
    stored = checkpoint.quantize(tensors, "int4")
    assert stored["head.weight"].shape == (7, 3 * 16)
    assert checkpoint.validate(stored) == dims
    found = checkpoint.dequantize(stored)["head.weight"]
    error = np.sqrt(((found - rows) ** 2).mean(axis=1))
    assert (error[:3] < 0.12).all()
    assert np.abs(found - rows)[:, 32:64].max() < 0.06
    assert not found[3].any()


def test_int4_without_factors(tensors, tmp_path):
    stored = checkpoint.quantize(tensors, "int4")
    del stored["head.weight.factor"]
    with pytest.raises(CheckpointError, match=r"'head\.weight\.factor' expected, uint8"):
        checkpoint.save(tmp_path / "m.safetensors", stored, {})


def test_int8_without_scale(tensors, tmp_path):
    stored = checkpoint.quantize(tensors, "int8")
    del stored["emb.weight.scale"]
    with pytest.raises(CheckpointError, match=r"emb\.weight\.scale"):
        checkpoint.save(tmp_path / "m", stored, {})


def test_a_failed_save_leaves_the_old_file_and_nothing_else(path, tensors):
    before = path.read_bytes()
    del tensors["ln_out.bias"]
    with pytest.raises(CheckpointError, match="not found"):
        checkpoint.save(path, tensors, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_does_not_exist(tensors, tmp_path):
    with pytest.raises(CheckpointError, match="folder does not exist"):
        checkpoint.save(tmp_path / "no" / "m", tensors, {})


def test_release_keeps_every_value(tmp_path):
    path = tmp_path / "numbers"
    np.arange(4096, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, mode="r").view(np.ndarray)
    changed = np.memmap(path, np.float32, mode="c")  # private: its pages are the only copy
    changed[:] = 7
    checkpoint.release({"a": mapped, "b": changed[10:], "c": np.ones(3, np.float32)})
    assert np.array_equal(mapped, np.arange(4096))
    assert np.all(changed == 7)
