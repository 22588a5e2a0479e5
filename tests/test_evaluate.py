import json
from pathlib import Path

import numpy as np
import pytest

from anser import codec, prompt, vocab
from anser.controls import Controls
from anser.errors import AnserError
from anser.evaluate import adherence, adherence_table, heldout, invariants, ranking, variation
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
    song, selection = band(), Selection.of([0], [4, 5])
    encoded = codec.encode(song)
    rng = np.random.default_rng(0)
    asked = adherence.wishes(encoded, selection, ("density",), rng)
    request = Request(song, selection, asked)
    rows = list(adherence.outcomes(ScriptedEngine(), request, "alone", [1]))
    n_notes = encoded.n_notes[0, [4, 5]].tolist()
    assert [(r.control, r.bar, r.asked) for r in rows] == [
        ("density", i, n) for i, n in enumerate(n_notes)
    ]
    for row, n in zip(rows, n_notes, strict=True):
        assert row.realised["not asked"] == 0
        assert row.realised["strength 1"] > 0
        assert (row.error["as a rule"], row.met["as a rule"]) == (0, True)
        assert row.error["strength 1"] == abs(n - row.realised["strength 1"])


def test_adherence_asks_of_every_control_what_the_cells_are_like():
    song = codec.encode(band())
    names = tuple(name for group in adherence.ALONE for name in group)
    asked = adherence.wishes(song, Selection.of([0], [4]), names, np.random.default_rng(0))[0, 4]
    assert set(asked.asked()) == set(Controls.__dataclass_fields__) - {"program"}
    assert asked.reference != 4
    for name in asked.asked():
        assert adherence.difference(name, asked, asked) == 0


def test_differences_count_what_differs():
    one = Controls(
        lengths=frozenset({"1/8"}), subdivision="1/8", chords=((0, "C"), (48, "F")), most=2
    )
    other = Controls(
        lengths=frozenset({"1/4"}), subdivision="1/4", chords=((0, "C"), (24, "G")), most=4
    )
    found = {name: adherence.difference(name, one, other) for name in one.asked()}
    assert found == {"lengths": 2, "subdivision": 1, "chords": pytest.approx(2 / 3), "most": 2}
    assert adherence.difference("density", one, other) is None


def _rows():
    conditions = ("not asked", "strength 1")
    for bar, (asked, found) in enumerate(((1, 2), (3, 3), (15, 13))):
        yield {
            **{"group": "alone", "control": "density", "bar": bar, "asked": asked},
            "realised": dict.fromkeys(conditions, found),
            "error": dict.fromkeys(conditions, abs(asked - found)),
            "met": dict.fromkeys(conditions, asked == found),
        }


def test_the_table_says_error_correlation_and_share_as_asked():
    text = adherence_table.tables(list(_rows()))
    assert "| density | 3 | 1.00, r 1.00, 33 % | 1.00, r 1.00, 33 % |" in text
    assert "| density, up to 12 | 2 | 0.50, 50 % | 0.50, 50 % |" in text
    assert "| density, bar 3 | 1 | 2.00, 0 % | 2.00, 0 % |" in text


def test_the_table_goes_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"one\n{adherence_table.BEGIN}\nold\n{adherence_table.END}\ntwo\n")
    adherence_table.write_into(page, "new\n")
    adherence_table.write_into(page, "new\n")
    marks = (adherence_table.BEGIN, adherence_table.END)
    assert page.read_text() == f"one\n{marks[0]}\n\nnew\n\n{marks[1]}\ntwo\n"
    page.write_text("no marks")
    with pytest.raises(AnserError, match="marks"):
        adherence_table.write_into(page, "new\n")


def test_the_page_of_controls_has_the_table():
    page = Path(__file__).parents[1] / "docs" / "control.md"
    table = page.read_text(encoding="utf-8").partition(adherence_table.BEGIN)[2]
    for name in ("density, up to 12", "polyphony", "lengths", "chords", "density, bar 1"):
        assert f"| {name} |" in table.partition(adherence_table.END)[0]


def test_ranking_is_scored_by_likeness_to_the_original():
    song = band()
    take = infill(FakeEngine(), Request(song, Selection.of([0], [4, 5])))[0]
    same = type(take)(song, {}, take.seed, take.number, take.cells)
    assert ranking.likeness_to_original(song, same) == 1
    assert ranking.likeness_to_original(song, take) < 0.5
    assert ranking.distances(song, same) == (0, 0)
    assert 0 < max(ranking.distances(song, take)) <= 1


def test_the_takes_of_a_request_are_judged_by_what_was_there(tmp_path):
    request = Request(band(), Selection.of([0], [4, 5]), takes=3)
    engine = UniformEngine()
    row = ranking.judged(engine, engine, request)
    assert row.scores.shape == (3, len(ranking.GOODNESS))
    assert row.reasons.shape == (3, len(ranking.REASONS))
    assert np.isfinite(row.scores).all()
    assert row.same_pairs_apart <= row.same_pairs
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row.plain) + "\n")
    (read,) = ranking.read_rows(path)
    assert ranking.summary([read]) == ranking.summary([row])


def test_the_first_in_rank_is_set_against_the_mean_and_reasons_are_weighed():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        reasons = rng.random((4, len(ranking.REASONS)))
        scores = np.tile(-2 * reasons[:, [1]], (1, len(ranking.GOODNESS)))
        scores *= list(ranking.GOODNESS.values())
        first = int(reasons[:, 1].argmin())
        rows.append(ranking.Judged(reasons, scores, first, 0, 0, 4))
    told = ranking.summary(rows)
    assert told["pairs that differ"]["as drawn"] == 1
    assert told["likeness"]["ranked first"].startswith("+0.5")
    assert told["follows"]["ranked first"].startswith("-0.5")
    worth = ranking.fit(rows)["all"]
    assert float(worth["nats"].split()[0]) < -1
    assert abs(float(worth["copies"].split()[0])) < 0.3


def test_variations_are_compared_with_what_stands_there():
    song = band()
    request = Request(song, Selection.of([0], [4]))
    rows = list(variation.outcomes(FakeEngine(), request, with_control=True))
    names = {name for name, _, _ in rows}
    assert names == {"vary", "with the control", "control alone", "neither"}
    assert all(0 <= share <= 1 for _, _, share in rows)
    assert variation.draw(song, np.random.default_rng(0)).cells
