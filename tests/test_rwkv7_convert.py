import pickle
import random
import struct
from pathlib import Path

import formula
import numpy as np
import pytest
import torch

from anser.errors import CheckpointError
from anser.rwkv7 import checkpoint, convert, gguf, names
from anser.rwkv7.dims import ModelDims
from anser.rwkv7.reference import ReferenceState, forward
from anser.rwkv7.torch.model import RWKV7

torch.set_num_threads(1)
HERE = Path(__file__).parent
UNUSED = {f"blocks.0.att.v{i}" for i in range(3)}


@pytest.fixture(scope="module")
def weights(parity_weights):
    return parity_weights("a")


def assert_same(found, expected):
    """Equal bit for bit, but for block 0's unused v0, v1, v2."""
    assert set(found) == set(expected) - UNUSED
    for name, tensor in found.items():
        assert tensor.dtype == np.float32
        assert tensor.shape == expected[name].shape, name
        assert np.array_equal(tensor, expected[name]), name


def test_names_there_and_back(weights):
    assert_same(names.from_hf(names.to_hf(weights)), weights)
    assert_same(names.from_gguf(names.to_gguf(weights), head_size=64), weights)
    assert_same(names.from_rwkv_cpp(names.to_rwkv_cpp(weights)), weights)


def test_hf_names_and_layouts(weights):
    there = names.to_hf(weights)
    assert there["model.layers.1.attn.w_lora.lora.0.weight"].shape == (32, 128)
    assert there["model.layers.1.attn.v_lora.lora.2.bias"].shape == (128,)
    assert there["model.layers.0.pre_norm.weight"].shape == (128,)
    assert there["model.layers.1.attn.x_r"].shape == (1, 1, 128)
    assert there["model.layers.1.ffn.x_k"].shape == (128,)
    assert "model.layers.0.attn.v_lora.lora.0.weight" not in there
    w2 = weights["blocks.1.att.w2"]
    assert np.array_equal(there["model.layers.1.attn.w_lora.lora.2.weight"], w2.T)


def test_gguf_names_and_layouts(weights):
    there = names.to_gguf(weights)
    assert there["blk.1.time_mix_lerp_fused.weight"].shape == (6, 1, 1, 128)
    x_g = weights["blocks.1.att.x_g"].ravel()
    assert np.array_equal(there["blk.1.time_mix_lerp_fused.weight"][5, 0, 0], x_g)
    assert there["blk.1.time_mix_r_k.weight"].shape == (128,)
    assert there["blk.1.time_mix_w1.weight"].shape == (32, 128)
    copies = there["blk.0.time_mix_v1.weight"], there["blk.0.time_mix_a1.weight"]
    assert np.array_equal(*copies)


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model.pth", "folder"])
def test_files_there_and_back(tmp_path, weights, name):
    convert.write_weights(tmp_path / name, weights)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    found = convert.read_weights(tmp_path / name)
    if name == "model.pth":
        assert set(found) == set(weights)  # the official format keeps even the unused
        found = {n: t for n, t in found.items() if n not in UNUSED}
    assert_same(found, weights)


def test_our_own_checkpoints_are_read_too(tmp_path, weights):
    checkpoint.save(tmp_path / "m.safetensors", checkpoint.quantize(weights, "int8"), {})
    found = convert.read_weights(tmp_path / "m.safetensors")
    assert set(found) == set(weights)
    assert np.abs(found["head.weight"] - weights["head.weight"]).max() < 0.01


def test_gguf_metadata(tmp_path, weights):
    convert.write_weights(tmp_path / "m.gguf", weights)
    _, metadata = gguf.read(tmp_path / "m.gguf")
    assert metadata["general.architecture"] == "rwkv7"
    assert metadata["rwkv7.wkv.head_size"] == 64
    assert metadata["rwkv7.attention.gate_lora_rank"] == 40
    assert metadata["rwkv7.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert metadata["tokenizer.ggml.model"] == "no_vocab"


def test_gguf_reads_arrays_and_half_precision(tmp_path):
    def text(string):
        return struct.pack("<Q", len(string)) + string.encode()

    raw = struct.pack("<4sIQQ", b"GGUF", 3, 2, 1)
    raw += text("list") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    raw += text("half") + struct.pack("<IQIQ", 1, 2, 1, 0)
    raw += text("brain") + struct.pack("<IQIQ", 1, 2, 30, 32)
    raw += bytes(-len(raw) % 32)
    raw += np.float16([1.5, -2]).tobytes() + bytes(28)
    raw += np.uint16([0x3F80, 0xC000]).tobytes()
    (tmp_path / "m.gguf").write_bytes(raw)
    tensors, metadata = gguf.read(tmp_path / "m.gguf")
    assert metadata == {"list": ["a", "b"]}
    np.testing.assert_array_equal(tensors["half"], np.float32([1.5, -2]))
    np.testing.assert_array_equal(tensors["brain"], np.float32([1, -2]))


@pytest.mark.parametrize("name", ["model.gguf", "model.bin", "model.pth"])
def test_a_damaged_file_is_one_clear_line(tmp_path, weights, name):
    path = tmp_path / name
    convert.write_weights(path, weights)
    whole = path.read_bytes()
    for size in (5, 40, 3000, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"^model\.[a-z]+: [^\n]+$"):
            convert.read_weights(path)


def test_a_quantised_gguf_is_refused(tmp_path):
    raw = bytearray(gguf.encode({"x": np.zeros(4, np.float32)}, {}))
    raw[24 + 8 + 1 + 4 + 8] = 2  # the tensor's type: Q4_0
    (tmp_path / "q.gguf").write_bytes(raw)
    with pytest.raises(CheckpointError, match="'x' is quantised"):
        gguf.read(tmp_path / "q.gguf")


def test_a_gguf_of_another_model_is_refused(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf.encode({}, {"general.architecture": "llama"}))
    with pytest.raises(CheckpointError, match="expected the architecture rwkv7, found llama"):
        convert.read_weights(tmp_path / "m.gguf")


def test_a_pickle_with_code_in_it_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"emb.weight": Trap()}, tmp_path / "trap.pth", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="more than tensors; not opened"):
        convert.read_weights(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_tensors_without_a_place_are_named(weights):
    with pytest.raises(CheckpointError, match=r"HF/FLA has no place for tensor 'head\.bias'"):
        names.to_hf({**weights, "head.bias": np.zeros(64, np.float32)})
    with pytest.raises(CheckpointError, match=r"'model\.what' is unknown in HF/FLA"):
        names.from_hf({"model.what": np.zeros(1)})


def test_paths_that_cannot_be_used(tmp_path, weights):
    with pytest.raises(CheckpointError, match="cannot be opened"):
        convert.read_weights(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match=r"expected \.pth"):
        convert.write_weights(tmp_path / "m.onnx", weights)
    with pytest.raises(CheckpointError, match="folder does not exist"):
        convert.write_weights(tmp_path / "no" / "m.gguf", weights)


@pytest.fixture(scope="module")
def reverse(reverse_path):
    return convert.read_weights(reverse_path)


def test_a_published_model_loads_from_its_own_names(reverse):
    dims = ModelDims.of(reverse)
    assert dims == ModelDims(2, 32, 12, 16, 128, 8, 8, 8, 8)
    assert {"head.bias", "blocks.0.att.output.bias"} <= set(reverse)
    assert "blocks.0.ln0.weight" not in reverse


def test_a_published_model_computes_what_its_author_computed(reverse):
    stored = np.load(HERE / "parity" / "real_reverse_L2_expected.npz")
    ids = torch.from_numpy(stored["tokens"])
    for dtype, gate in ((torch.float64, 1e-10), (torch.float32, 2e-3)):
        with torch.no_grad():
            logits, state = RWKV7.of(reverse).to(dtype)(ids)
        assert np.abs(logits.numpy() - stored["logits"]).max() < gate
        assert np.abs(state.wkv.numpy() - stored["state_wkv"]).max() < gate
    one = ReferenceState.zeros(ModelDims.of(reverse))
    logits, state = forward(reverse, one, stored["tokens"][3])
    assert np.abs(logits - stored["logits"][3]).max() < 1e-10
    assert np.abs(state.shift[:, 0] - stored["shift_att"][3]).max() < 1e-10
    assert np.abs(state.shift[:, 1] - stored["shift_ffn"][3]).max() < 1e-10


def reversed_right(weights, digit_counts):
    """Right and all answers (digits and the closing "#"), ten numbers a length, seed 42."""
    random.seed(42)
    model = RWKV7.of(weights)
    right = total = 0
    for n in range(1, 61):
        numbers = ["".join(random.choices("0123456789", k=n)) for _ in range(10)]
        if n not in digit_counts:
            continue
        lines = [f"{x},{x[::-1]}#" for x in numbers]
        ids = torch.tensor([["0123456789,#".index(c) for c in line] for line in lines])
        with torch.no_grad():
            logits, _ = model(ids[:, :-1])
        hits = logits.argmax(2)[:, n:] == ids[:, n + 1 :]
        right, total = right + int(hits.sum()), total + hits.numel()
    return right, total


def test_a_published_model_reverses_numbers(reverse):
    assert reversed_right(reverse, {1, 10, 35, 60}) == (1100, 1100)


@pytest.mark.slow
def test_a_published_model_reverses_all_18900_digits(reverse):
    assert reversed_right(reverse, set(range(1, 61))) == (18900, 18900)


def test_rosa_in_use_is_refused():
    tensors = {"rosa1.rosa_qkv.emb": np.ones((1, 1, 4), np.float32)}
    with pytest.raises(CheckpointError, match="must be zero"):
        names.from_reverse_task(tensors)


def test_a_published_model_of_rwkv_cpp(parity_dir, tmp_path):
    stored = np.load(parity_dir / "real_tiny7v0_expected.npz")
    path = parity_dir / "real" / "tiny-rwkv-7v0-834K-FP32.bin"
    tensors = convert.read_weights(path)
    dims = ModelDims.of(tensors)
    assert (dims.n_layer, dims.d_model, dims.n_vocab, dims.d_ffn) == (12, 64, 256, 256)
    logits, state = forward(tensors, ReferenceState.zeros(dims), stored["tokens"])
    assert np.abs(logits - stored["logits"]).max() < 1e-10
    assert np.abs(state.wkv - stored["state_wkv"]).max() < 1e-10
    assert np.abs(state.shift - stored["state_shift"]).max() < 1e-10
    assert np.abs(logits[2] - stored["published_logits_after_3"]).max() < 4e-7
    with torch.no_grad():
        found, _ = RWKV7.of(tensors)(torch.from_numpy(stored["tokens"])[None])
    assert np.abs(found[0].numpy() - stored["logits"]).max() < 5e-5
    convert.write_weights(tmp_path / "again.bin", tensors)
    assert (tmp_path / "again.bin").stat().st_size == path.stat().st_size
    again = convert.read_rwkv_cpp(tmp_path / "again.bin")
    theirs = convert.read_rwkv_cpp(path)
    assert all(np.array_equal(again[n], t) for n, t in theirs.items())


def test_the_sizes_of_d_are_those_of_midi_rwkv():
    assert sum(np.prod(s) for s in formula.DIMS["d"].shapes().values()) == 35_060_352 - 768
