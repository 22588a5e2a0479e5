import numpy as np
import pytest

from anser import codec, prompt, vocab
from anser.evaluate import adherence, heldout, invariants, ranking
from anser.infill import Request, infill
from anser.prompt import Window
from anser.selection import Selection
from anser.song import splice
from anser.train.shards import Shard
from fakes import FakeEngine
from songs import Part, band, make_song


class UniformEngine(FakeEngine):
    """Finds every id of the vocabulary equally likely."""

    def logits(self, state, ids):
        return np.zeros((*np.shape(ids), vocab.N_VOCAB), dtype=np.float32)


def repeating_song():
    """Return two tracks whose bars alternate between two patterns."""
    parts = [
        Part(
            [(1920 * b + 480 * i, 480, 60 + 12 * t + 2 * i + 5 * (b % 2), 82) for b in range(8)
             for i in range(4)],
            channel=t,
        )
        for t in range(2)
    ]  # fmt: skip
    return codec.encode(make_song(parts))


def example(song, selection, window=Window()):
    made = prompt.make(song, selection, window=window)
    n_notes = int(sum(song.n_notes[cell] for cell in selection.cells))
    return heldout.Heldout(song, 0, made, made, n_notes)


def test_a_model_that_knows_nothing_scores_the_size_of_the_vocabulary():
    song = repeating_song()
    drawn = example(song, Selection.of([0], [3, 4]))
    _, is_answer = prompt.with_answers(drawn.made, song)
    nats = heldout.model_nats(UniformEngine(), song, drawn.made)
    assert nats == pytest.approx(is_answer.sum() * np.log(vocab.N_VOCAB))


def test_without_context_the_answers_stay_and_the_other_notes_go():
    song = repeating_song()
    drawn = example(song, Selection.of([0], [3, 4]))
    bare = np.concatenate([s.given for s in heldout._bare(drawn)])
    names = [vocab.name(int(i)) for i in bare]
    assert not any(n.startswith(("pitch", "position", "duration", "velocity")) for n in names)
    assert names.count("bar") == [
        vocab.name(int(i)) for s in drawn.made.segments for i in s.given
    ].count("bar")
    assert names[-3:] == ["answer", "track_0", "program_0"]
    assert heldout.no_context_nats(UniformEngine(), drawn) == pytest.approx(
        heldout.model_nats(UniformEngine(), song, drawn.made)
    )


def test_the_nearest_similar_bar_is_the_one_the_other_tracks_point_at():
    song = repeating_song()
    made = prompt.make(song, Selection.of([0], [3]))
    assert heldout.nearest_bar(song, made, (0, 3)) in (1, 5)
    alone = prompt.make(song, Selection.of([0, 1], range(8)))
    assert heldout.nearest_bar(song, alone, (0, 3)) is None


def test_copying_beats_the_unigram_where_bars_repeat():
    song = repeating_song()
    drawn = example(song, Selection.of([0], [3, 4]))
    log_unigram = heldout.unigram([drawn])
    assert np.exp(log_unigram).sum() == pytest.approx(1)
    alone = heldout.copy_nats(drawn, log_unigram, heldout.CopyWeights(0, 0))
    ids, is_answer = prompt.with_answers(drawn.made, song)
    assert alone == pytest.approx(-log_unigram[ids[is_answer]].sum())
    assert heldout.copy_nats(drawn, log_unigram, heldout.CopyWeights(0.5, 0.95)) < 0.3 * alone


def test_the_weights_of_copying_are_fitted():
    song = repeating_song()
    drawn = [example(song, Selection.of([0], [b])) for b in (2, 3)]
    weights = heldout.fit_copy_weights(drawn, heldout.unigram(drawn))
    assert weights.following == max(heldout.COPY_WEIGHTS)


def test_examples_depend_on_their_seed_alone():
    shard = Shard((repeating_song(), codec.encode(band())), ("x", "y"), ("a", "b"))
    one, more = (heldout.draw(shard, n, 1) for n in (3, 6))
    for a, b in zip(one, more, strict=False):
        assert a.piece == b.piece
        assert [s.cell for s in a.made.segments] == [s.cell for s in b.made.segments]


def test_the_mean_is_per_note_and_its_error_clusters_by_piece():
    song = repeating_song()
    examples = [example(song, Selection.of([0], [b])) for b in (1, 2)]
    mean, error = heldout.per_note([8.0, 16.0], examples)
    assert mean == pytest.approx(24 / 8)
    assert error == pytest.approx(0)  # one piece: its residuals cancel


def test_random_selections_fit_the_song():
    song = band()
    for seed in range(200):
        selection = invariants.random_selection(song, np.random.default_rng(seed))
        assert 1 <= len(selection.tracks) <= 4
        assert all(0 <= t < 3 and 0 <= b < song.n_bars for t, b in selection.cells)


def test_a_clean_take_has_no_malformed_bar_and_a_wrong_one_is_found():
    song, selection = band(), Selection.of([0], [4, 5])
    take = infill(FakeEngine(), Request(song, selection))[0]
    assert invariants.malformed_bars(take, selection) == 0
    stray = take.notes[0][:1].copy()
    more = {0: np.concatenate([take.notes[0], stray])}
    more[0]["pitch"][-1] = 20
    broken = type(take)(
        splice(song, selection, more), take.notes, take.seed, take.number, take.cells
    )
    assert invariants.malformed_bars(broken, selection) == 1


def test_silence_is_counted_where_the_original_plays():
    song, selection = band(), Selection.of([0, 1], [4, 5])
    take = infill(FakeEngine({vocab.END: 99.0}), Request(song, selection))[0]
    silent, playing = invariants.silent_answers(song, take)
    assert silent == playing > 0


class ScriptedEngine(FakeEngine):
    """Ends every cell at once, unless a density was asked for."""

    def step(self, state, ids):
        logits = super().step(state, ids)
        for row, token in enumerate(ids):
            is_asked = vocab.DENSITY < token < vocab.DENSITY + vocab.COUNT["density"]
            state.shift[row, 0, 0, 0] = is_asked if token != vocab.END else 0
        is_writing = state.shift[:, 0, 0, 0] > 0
        logits[:, vocab.END] = np.where(is_writing, -99, 99)
        return logits


def test_adherence_tells_asked_from_unasked():
    song = band()
    rows = list(adherence.outcomes(ScriptedEngine(), song, Selection.of([0], [4]), ("density",), 1))
    encoded = codec.encode(song)
    assert [(r.control, r.bar, r.asked, r.unasked) for r in rows] == [
        ("density", 0, int(encoded.n_notes[0, 4]), 0)
    ]
    assert rows[0].realised > 0


def test_the_summary_of_numbers_and_of_names():
    rows = [adherence.Outcome("density", 0, a, r, 9) for a, r in ((1, 2), (3, 3), (5, 4))]
    figures = adherence.summary(rows)
    assert figures["realised_error"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures["realised_exact"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures["realised_correlation"] > 0.9
    assert "unasked_correlation" not in figures
    names = [adherence.Outcome("grid", 0, "1/8", r, None) for r in ("1/8", "1/16")]
    assert adherence.summary(names) == {"cells": 2, "realised_exact": 0.5, "unasked_exact": 0.0}


def test_ranking_is_scored_by_likeness_to_the_original():
    song = band()
    take = infill(FakeEngine(), Request(song, Selection.of([0], [4, 5])))[0]
    same = type(take)(song, {}, take.seed, take.number, take.cells)
    assert ranking.likeness_to_original(song, same) == 1
    assert ranking.likeness_to_original(song, take) < 0.5
    row = ranking.compare(FakeEngine(), song, 3, seed=2)
    assert set(row) == {"all takes", "likeliest per note", "ranked first"}
    assert row["ranked first"][1] <= row["all takes"][1]
