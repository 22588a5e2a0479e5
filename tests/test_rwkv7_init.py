import pytest
import torch

from anser.rwkv7.torch.init import initialise, make_dims
from anser.rwkv7.torch.model import RWKV7
from anser.rwkv7.torch.optim import make_optimizer, parameter_groups

torch.set_num_threads(1)


def make_model(n_layer=3, d_model=128, seed=0):
    model = RWKV7(make_dims(n_layer, d_model, 300))
    initialise(model, seed)
    return model


@pytest.fixture(scope="module")
def weights():
    return {n: p.detach() for n, p in make_model().named_parameters()}


@pytest.mark.parametrize(
    ("d_model", "formula", "ranks"),
    [
        (384, "old", (32, 32, 32, 64)),
        (384, "new", (64, 64, 32, 96)),
        (768, "old", (64, 64, 32, 128)),
        (768, "new", (64, 64, 32, 128)),
        (2048, "old", (96, 96, 64, 256)),
        (2048, "new", (128, 128, 64, 224)),
        (2560, "old", (96, 96, 64, 320)),
        (4096, "old", (128, 128, 96, 480)),
        (4096, "new", (160, 160, 96, 320)),
    ],
)
def test_ranks_are_the_published_ones(d_model, formula, ranks):
    dims = make_dims(2, d_model, 100, ranks=formula)
    assert (dims.rank_w, dims.rank_a, dims.rank_v, dims.rank_g) == ranks
    assert dims.d_ffn == 4 * d_model


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of 64, found 100"):
        make_dims(2, 100, 50)


def test_sizes_are_those_of_midi_rwkv():
    shapes = make_dims(12, 384, 16000, ranks="old").shapes()
    count = sum(torch.Size(s).numel() for s in shapes.values())
    assert count + 2 * 384 == 35_060_352  # with ln0


# (name, mean, standard deviation), worked out from the official formulas at L = 3, D = 128, N = 64
MOMENTS = [
    ("emb.weight", 0.0, 1e-4 / 3**0.5),
    ("head.weight", 0.0, 0.5 * (300 / 128) ** 0.5 / 300**0.5),
    ("blocks.0.ln0.weight", 1.0, 0.0),
    ("blocks.1.att.ln_x.weight", (2 / 3) ** 0.7, 0.0),
    ("blocks.2.att.ln_x.bias", 0.0, 0.0),
    ("blocks.0.att.k_a", 1.02, 0.0),
    ("blocks.0.att.r_k", -0.04, 0.0),
    ("blocks.0.att.k_k", 0.71, 0.1 * 0.2909),
    ("blocks.1.att.v0", 0.73, 0.4 * 0.2909),
    ("blocks.0.att.w0", -2.5, None),
    ("blocks.0.att.a0", -0.19, None),
    ("blocks.0.att.w1", 0.0, 0.0),
    ("blocks.0.att.w2", 0.0, 0.1 / 128**0.5),
    ("blocks.0.att.receptance.weight", 0.0, 1 / 128**0.5),
    ("blocks.0.att.key.weight", 0.0, 0.1 / 128**0.5),
    ("blocks.0.att.value.weight", 0.0, 1 / 128**0.5),
    ("blocks.0.att.output.weight", 0.0, 0.0),
    ("blocks.0.ffn.key.weight", 0.0, 1 / 512**0.5),
    ("blocks.0.ffn.value.weight", 0.0, 0.0),
]


@pytest.mark.parametrize(("name", "mean", "deviation"), MOMENTS)
def test_moments(weights, name, mean, deviation):
    found = weights[name].double()
    spread = deviation or 0.0
    assert abs(found.mean() - mean) < 1e-6 + 0.1 * spread
    if deviation is not None:
        assert abs(found.std() - deviation) < 1e-6 + 0.02 * deviation


def test_vectors_follow_the_formulas(weights):
    i = torch.arange(128)
    x_r = 1 - (i / 128) ** (0.2 * 2 / 3)
    torch.testing.assert_close(weights["blocks.1.att.x_r"].flatten(), x_r)
    x_k = 1 - (i / 128) ** ((1 / 3) ** 4)
    torch.testing.assert_close(weights["blocks.2.ffn.x_k"].flatten(), x_k)
    zigzag = ((i % 64) - 31.5) / 31.5
    zigzag = zigzag * zigzag.abs()
    w0 = -6 + 6 * (i / 127) ** (1 + 0.5**0.3) + 0.5 + 2.5 * zigzag
    torch.testing.assert_close(weights["blocks.1.att.w0"].flatten(), w0)
    a0 = -0.19 + 0.3 * zigzag + 0.4 * (i / 127 - 0.5)
    torch.testing.assert_close(weights["blocks.1.att.a0"].flatten(), a0)


def test_projections_are_orthogonal(weights):
    matrix = weights["blocks.1.att.receptance.weight"]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(128), atol=1e-5, rtol=0)


def test_a_seed_gives_the_same_weights():
    one, same, other = (make_model(1, 64, seed).head.weight for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_one_layer_starts_finite():
    assert all(p.isfinite().all() for p in make_model(1, 64).parameters())


def test_groups_decay_only_matrices_and_speed_up_w0():
    model = make_model()
    names = {id(p): n for n, p in model.named_parameters()}
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.1)
    decayed, fast, other = ({names[id(p)] for p in g["params"]} for g in groups)
    assert [g["lr"] for g in groups] == [1e-3, 2e-3, 1e-3]
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0, 0.0]
    assert fast == {f"blocks.{i}.att.w0" for i in range(3)}
    assert len(decayed) == 2 + 3 * 6
    assert {"emb.weight", "head.weight", "blocks.2.ffn.value.weight"} <= decayed
    assert "blocks.0.att.w1" in other
    assert decayed | fast | other == set(names.values())


def test_frozen_parameters_are_left_out():
    model = make_model(1, 64).requires_grad_(False)
    model.emb.weight.requires_grad_(True)
    optimizer = make_optimizer(model, lr=1e-3, weight_decay=0.1)
    assert [len(g["params"]) for g in optimizer.param_groups] == [1]
    assert optimizer.defaults["betas"] == (0.9, 0.99)
    assert optimizer.defaults["eps"] == 1e-18
