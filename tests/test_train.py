import numpy as np
import pytest

from anser import codec, prompt, vocab
from anser.chords import recognize
from anser.codec import encode
from anser.controls import likeness, measure
from anser.rwkv7 import checkpoint
from anser.train import examples, export, shards
from anser.train.examples import ALIGN, Examples, Request, batch, draw_selection, spell
from anser.train.shards import Shard
from songs import band

torch = pytest.importorskip("torch")
from anser.train import config as train_config  # noqa: E402
from anser.train import loop  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shard():
    songs = tuple(encode(band(12 + seed, seed)) for seed in range(4))
    return Shard(songs, ("polish", "freedoom", "pop909", "groove"), ("a", "b", "c", "d"))


@pytest.fixture
def folder(tmp_path, shard):
    for split in ("train", "valid"):
        shards.save(tmp_path / f"{split}.npz", shard)
    return tmp_path


def test_shards_come_back_as_they_were(tmp_path, shard):
    shards.save(tmp_path / "x.npz", shard)
    again = shards.load(tmp_path / "x.npz")
    assert again.sources == shard.sources
    for one, other in zip(again.songs, shard.songs, strict=True):
        for field in ("ids", "offsets", "n_notes", "programs", "numerators", "lengths", "tempos"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), field


def test_an_example_is_the_prompt_of_inference_with_answers(shard):
    rng = np.random.default_rng(0)
    song = shard.songs[1]
    selection = draw_selection(song, rng)
    example = spell(song, selection, Request({}, prompt.Window()))
    made = prompt.make(song, selection)
    assert example.ids[: len(made.segments[0].given)].tolist() == made.segments[0].given.tolist()
    assert (~example.is_answer).sum() == made.n_given


def test_batches_are_decided_by_their_seed(shard):
    one, same, other = (batch(Examples(shard), (0, k), 8192) for k in (1, 1, 2))
    assert np.array_equal(one.ids, same.ids)
    assert not np.array_equal(one.ids, other.ids)


def test_a_batch_holds_whole_aligned_sequences_and_their_next_ids(shard):
    made = batch(Examples(shard), (0, 0), 16_384)
    starts = made.offsets[:-1][np.diff(made.offsets) > 0]
    assert (starts % ALIGN == 0).all()
    assert made.offsets[-1] == 16_384
    filled = [s for s in starts if made.ids[s] == vocab.SONG]
    assert len(filled) >= len(starts) - 1
    counted = made.is_answer | made.is_context
    assert (made.targets[:-1][counted[:-1]] == made.ids[1:][counted[:-1]]).all()
    assert not (made.is_answer & made.is_context).any()
    answered = made.targets[made.is_answer]
    assert ((answered >= vocab.PITCH) & (answered < vocab.DRUM + 128)).sum() == made.n_notes


def test_transposition_keeps_every_track_in_its_range(shard):
    song = shard.songs[0]
    down, up = examples.transposition_range(song)
    assert -6 <= down <= 0 <= up <= 6
    moved = examples.vary(song, up, np.random.default_rng(1))
    before, after = codec.decode(song.cell(0, 0)), codec.decode(moved.cell(0, 0))
    assert np.array_equal(before["pitch"] + up, after["pitch"])
    assert np.array_equal(before["position"], after["position"])
    louder = after["velocity"].astype(int) - before["velocity"]
    assert len(set(louder.tolist())) == 1


def test_controls_are_asked_for_in_every_subset_and_are_true(shard):
    song = shard.songs[1]
    subsets = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        selection = draw_selection(song, rng)
        for (track, bar), asked in examples.draw_controls(song, selection, rng).items():
            assert (track, bar) in selection.cells
            notes = codec.decode(song.cell(track, bar))
            is_drum = song.programs[track] == vocab.DRUMS
            measured = measure(notes, int(song.lengths[bar]), is_drum=is_drum)
            for name in set(asked.asked()) - {"likeness", "reference", "chords"}:
                assert getattr(asked, name) == getattr(measured, name)
            if asked.reference is not None:
                others = codec.decode(song.cell(track, asked.reference))
                assert asked.likeness == likeness(notes, others)
            if asked.chords is not None:
                inside = range(selection.bars[0], selection.bars[-1] + 1)
                assert asked.chords == recognize(song, inside)[bar - inside.start]
                assert not is_drum
            subsets.add(asked.asked())
    assert len(subsets) > 50
    assert any(len(s) == 1 for s in subsets)
    assert any("chords" in s for s in subsets)


def test_what_is_held_is_part_of_the_answer(shard):
    song = shard.songs[1]
    shares = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        selection = draw_selection(song, rng)
        for cell, held in examples.draw_held(song, selection, rng).items():
            answer = codec.decode(song.cell(*cell)).tolist()
            stands = codec.decode(held).tolist()
            assert cell in selection.cells
            assert set(stands) <= set(answer)
            shares.append(len(stands) / len(answer))
    assert 0 < np.mean(shares) < 1
    assert {0.0, 1.0} <= set(shares)


def test_sources_are_weighted(shard):
    shares = Examples(shard).shares
    weights = examples.SOURCE_WEIGHTS
    per_note = shares / shard.n_notes
    assert per_note[1] / per_note[0] == pytest.approx(weights["freedoom"] / weights["polish"])


def test_a_resumed_run_ends_where_an_unbroken_one_does(folder):
    settings = train_config.TrainConfig.of_size("tiny", steps=4, ids_per_step=2048, warmup=2)
    whole = loop.Run(folder, folder / "whole.safetensors")
    loss = loop.train(settings, whole)
    broken = loop.Run(folder, folder / "broken.safetensors", minutes=0)
    for _ in range(3):
        assert loop.train(settings, broken) is None
        assert not broken.output.exists()
    assert loop.train(settings, broken) == pytest.approx(loss, rel=1e-5)
    one, other = (checkpoint.load(r.output) for r in (whole, broken))
    assert one.metadata["vocab"] == vocab.fingerprint()
    for name, tensor in one.tensors.items():
        np.testing.assert_allclose(tensor, other.tensors[name], atol=1e-6, err_msg=name)


def test_weights_kept_on_the_way_are_averaged(folder, monkeypatch):
    settings = train_config.TrainConfig.of_size("tiny", steps=3, ids_per_step=2048, warmup=1)
    output = folder / "kept.safetensors"
    loop.train(settings, loop.Run(folder, output, valid_every=1, keeps=True))
    kept = [folder / f"kept-{step}.safetensors" for step in (1, 2)]
    mean = folder / "mean.safetensors"
    command = ["export", *map(str, kept), "-o", str(mean), "--precision", "fp32"]
    monkeypatch.setattr("sys.argv", command)
    export.main()
    one, two, made = (checkpoint.load(path) for path in (*kept, mean))
    assert made.metadata["train.stopped_after_step"] == "1 2"
    assert made.metadata["train.steps"] == "3"
    for name, tensor in made.tensors.items():
        half = (np.asarray(one.tensors[name]) + np.asarray(two.tensors[name])) / 2
        np.testing.assert_allclose(tensor, half, atol=1e-6, err_msg=name)


def test_training_learns(folder):
    settings = train_config.TrainConfig.of_size("tiny", steps=1, ids_per_step=4096)
    first = loop.train(settings, loop.Run(folder, folder / "first.safetensors"))
    settings = train_config.TrainConfig.of_size("tiny", steps=15, ids_per_step=4096, warmup=3)
    last = loop.train(settings, loop.Run(folder, folder / "last.safetensors"))
    assert last < first - 1


def test_a_run_of_other_settings_is_not_resumed(folder):
    one = train_config.TrainConfig.of_size("tiny", steps=9, ids_per_step=4096)
    run = loop.Run(folder, folder / "x.safetensors", minutes=0)
    assert loop.train(one, run) is None
    other = train_config.TrainConfig.of_size("tiny", steps=9, ids_per_step=4096, clip=2.0)
    with pytest.raises(ValueError, match="begun with other settings"):
        loop.train(other, run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 100}, "d_model"),
        ({"ids_per_step": 40}, "ids_per_step"),
        ({"stpes": 1}, "stpes"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        train_config.TrainConfig.of_size("tiny", **{"steps": 1, **change})


def test_the_rate_warms_up_and_falls():
    settings = train_config.TrainConfig.of_size("tiny", steps=100, warmup=10)
    rates = [loop.learning_rate(settings, step) for step in range(100)]
    assert rates[0] < rates[9] == pytest.approx(settings.learning_rate, rel=1e-3)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(settings.learning_rate * settings.final_share, rel=0.05)
