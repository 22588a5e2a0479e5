import numpy as np
import pytest

from anser.sampling import Sampling, pick


def draws(logits, allowed, sampling, n=2000, seed=0):
    rng = np.random.default_rng(seed)
    x = np.asarray(logits, dtype=np.float32)
    picks = [pick(x, np.asarray(allowed), sampling, rng) for _ in range(n)]
    return np.bincount([p.token for p in picks], minlength=len(x)) / n


def test_only_allowed_ids_are_drawn():
    shares = draws([9.0, 1.0, 1.0, 9.0], [False, True, True, False], Sampling(top_p=1, min_p=0))
    assert shares[[0, 3]].sum() == 0
    assert shares[1] == pytest.approx(0.5, abs=0.05)


def test_the_distribution_is_the_softmax_at_temperature_one():
    p = np.array([0.5, 0.3, 0.2])
    shares = draws(np.log(p), [True] * 3, Sampling(1, top_p=1, min_p=0), n=20_000)
    assert shares == pytest.approx(p, abs=0.02)


def test_temperature_zero_takes_the_likeliest():
    assert draws([0.0, 2.0, 1.0], [True] * 3, Sampling(temperature=0))[1] == 1
    assert draws([0.0, 2.0, 1.0], [True, False, True], Sampling(temperature=0))[2] == 1


def test_top_p_and_min_p_cut_the_tail():
    logits = np.log([0.6, 0.3, 0.1])
    assert draws(logits, [True] * 3, Sampling(1, top_p=0.8, min_p=0))[2] == 0
    assert draws(logits, [True] * 3, Sampling(1, top_p=1, min_p=0.4))[2] == 0
    assert draws(logits, [True] * 3, Sampling(1, top_p=0.5, min_p=0))[0] == 1


def test_the_log_likelihood_is_that_of_the_model_not_of_the_settings():
    rng = np.random.default_rng(0)
    x = np.log(np.array([0.25, 0.25, 0.5], dtype=np.float32))
    drawn = pick(x, np.array([True, True, False]), Sampling(temperature=0), rng)
    assert drawn.log_likelihood == pytest.approx(np.log(0.5))


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"min_p": 2}, "min_p")],
)
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        Sampling(**settings)


def test_each_draw_takes_one_number_from_the_generator():
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    x, allowed = np.zeros(4, dtype=np.float32), np.array([True, True, False, True])
    pick(x, allowed, Sampling(temperature=0), one)
    pick(x, allowed, Sampling(top_p=0.3), other)
    assert one.random() == other.random()
