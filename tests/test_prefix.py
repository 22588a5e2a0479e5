import numpy as np
import pytest

from anser.rwkv7 import checkpoint
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from tiny_model import DIMS, write_model

IDS = np.random.default_rng(1).integers(0, DIMS.n_vocab, 700)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return Engine(checkpoint.load(write_model(tmp_path_factory.mktemp("m") / "m.safetensors")))


def read_plainly(engine, ids):
    state = engine.new_state(1)
    return state, engine.prefill(state, ids[None])


def assert_same(one, other):
    assert np.array_equal(one[0].wkv, other[0].wkv)
    assert np.array_equal(one[0].shift, other[0].shift)
    assert np.array_equal(one[1], other[1])


@pytest.mark.parametrize("n", [1, 255, 256, 257, 700])
def test_reading_through_the_cache_changes_no_bit(engine, n):
    cache = PrefixCache(engine)
    assert_same(cache.read(IDS[:n]), read_plainly(engine, IDS[:n]))
    assert_same(cache.read(IDS[:n]), read_plainly(engine, IDS[:n]))
    assert cache.n_read == n


def test_only_what_follows_the_first_difference_is_read_again(engine):
    cache = PrefixCache(engine, every=100)
    cache.read(IDS)
    changed = IDS.copy()
    changed[350] = (changed[350] + 1) % DIMS.n_vocab
    assert_same(cache.read(changed), read_plainly(engine, changed))
    assert cache.n_read == 700 + 400
    longer = np.concatenate([IDS, IDS[:50]])
    assert_same(cache.read(longer), read_plainly(engine, longer))
    assert cache.n_read == 700 + 400 + 50


def test_what_is_returned_is_the_callers(engine):
    cache = PrefixCache(engine)
    state, logits = cache.read(IDS[:10])
    engine.step(state, [3])
    logits[:] = 0
    assert_same(cache.read(IDS[:10]), read_plainly(engine, IDS[:10]))


def test_memory_is_bounded_and_the_oldest_goes_first(engine):
    state, logits = read_plainly(engine, IDS[:1])
    one = state.wkv.nbytes + state.shift.nbytes + logits.nbytes
    cache = PrefixCache(engine, max_bytes=3 * one, every=1000)
    for n in (10, 20, 30):
        cache.read(IDS[:n])
    cache.read(IDS[:10])  # used again, so 20 is now the oldest
    cache.read(IDS[:40])
    assert cache.n_bytes == 3 * one
    before = cache.n_read
    cache.read(IDS[:10])
    assert cache.n_read == before
    cache.read(IDS[:20])
    assert cache.n_read == before + 20


def test_a_cache_too_small_for_one_state_still_reads(engine):
    cache = PrefixCache(engine, max_bytes=1)
    assert_same(cache.read(IDS[:300]), read_plainly(engine, IDS[:300]))
    assert cache.n_bytes == 0


def test_nothing_to_read_is_refused(engine):
    with pytest.raises(ValueError, match="at least one token"):
        PrefixCache(engine).read(IDS[:0])
    with pytest.raises(ValueError, match="every"):
        PrefixCache(engine, every=0)
