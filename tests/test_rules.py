import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser import cli, demo, vocab
from anser.bind import CONTROL_WORDS, bind_rules, earlier_takes
from anser.errors import ControlError, RuleError, SelectionError
from anser.infill import Request, infill
from anser.rules import (
    NAMES,
    Lock,
    Rules,
    parse_grid,
    parse_locks,
    parse_pitches,
    parse_scale,
    pitch_name,
)
from anser.rules_check import violations
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import Song
from anser.verify import differences
from anser.wishes import Wishes
from fakes import FakeEngine
from songs import Part, band, make_song
from tiny_model import write_model

WILD = Sampling(1, 1, 0)
TALKATIVE = {vocab.END: -6.0}
SUSTAINING = {vocab.END: -3.0, vocab.ADD_LONG: 4.0}
QUARTERS = make_song(
    [Part([(480 * i, 480, 60 + i % 5, 80 + i) for i in range(16)])], per_quarter=480
)
FIRST_TWO = Selection.of([0], [0, 1])


def everywhere(selection, **rules):
    return dict.fromkeys(selection.cells, Rules(**rules))


def write(song, selection, rules, likely=None, **request):
    """Return one take after checking it from outside."""
    asked = Request(song, selection, rules=rules, sampling=WILD, **request)
    take = infill(FakeEngine(likely or TALKATIVE), asked)[0]
    found = violations(song, take.song, selection, rules, asked.earlier)
    assert not found, found[0]
    assert differences(song, take.song, selection) == []
    return take


def in_cells(song, selection, track=0):
    notes = song.tracks[track].notes
    bars = song.bars.at(notes["onset"])
    return notes[[(track, int(bar)) in selection.cells for bar in bars]]


# ---- what musicians write


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("C major", {0, 2, 4, 5, 7, 9, 11}),
        ("D dorian", {0, 2, 4, 5, 7, 9, 11}),
        ("Bb pentatonic", {10, 0, 2, 5, 7}),
        ("f# harmonic minor", {6, 8, 9, 11, 1, 2, 5}),
        ("C Eb, G", {0, 3, 7}),
    ],
)
def test_scales(text, classes):
    assert parse_scale(text) == classes


def test_middle_c_is_c4():
    assert [pitch_name(pitch) for pitch in (0, 60, 70)] == ["C-1", "C4", "Bb4"]


def test_pitches_grids_and_locks():
    assert parse_pitches("C2-C4") == (36, 60)
    assert parse_pitches("Bb-1") == (10, 10)
    assert parse_pitches("36-60") == (36, 60)
    assert [parse_grid(g) for g in ("1/4", "1/16", "1/8t", "1/1")] == [24, 6, 8, 96]
    assert parse_locks("C2+E2-G2") == (Lock(pitches=(36, 36)), Lock(pitches=(40, 43)))
    assert parse_locks("beats 1-2+4") == (Lock(beats=(0, 2)), Lock(beats=(3, 4)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scale", "H major"),
        ("scale", "C"),
        ("scale", ""),
        ("range", "C4-C2"),
        ("range", "C12"),
        ("range", "loud"),
        ("grid", "1/7"),
        ("grid", "1/0"),
        ("keep", "tempo"),
        ("notes", "6-2"),
        ("notes", "500"),
        ("max_polyphony", "0"),
        ("max_polyphony", "1-2"),
        ("no_repeat", "0"),
        ("beats", "0-1"),
        ("tempo", "90"),
    ],
)
def test_what_is_no_rule_is_refused(name, text):
    with pytest.raises(ControlError):
        Rules.parse(**{name: text})


def test_rules_are_typed_for_all_tracks_or_for_one():
    song, selection = band(8), Selection.of([0, 1], [2, 3])
    words = Wishes(scale=("C major", "2=A minor pentatonic"), lock=("1=3:beat 1",))
    rules = bind_rules(song, selection, words)
    assert rules[0, 2].scale == parse_scale("C major")
    assert rules[1, 3].scale == parse_scale("A minor pentatonic")
    assert {cell for cell, known in rules.items() if known.locks} == {(0, 2)}
    assert bind_rules(song, selection, Wishes()) == {}
    with pytest.raises(ControlError, match="selected bars, found track 3"):
        bind_rules(song, selection, Wishes(grid=("3=1/8",)))
    with pytest.raises(SelectionError):
        bind_rules(song, selection, Wishes(grid=("flute=1/8",)))
    with pytest.raises(ControlError, match="no-repeat"):
        earlier_takes(band(), Wishes(unlike=(Path("take.mid"),)))


# ---- each rule alone


def test_scale_and_range():
    rules = everywhere(FIRST_TWO, scale=parse_scale("D dorian"), pitches=(50, 70))
    pitches = write(QUARTERS, FIRST_TWO, rules).notes[0]["pitch"]
    assert len(pitches) > 20
    assert set((pitches % 12).tolist()) <= {0, 2, 4, 5, 7, 9, 11}
    assert 50 <= pitches.min() <= pitches.max() <= 70


def test_one_voice_though_notes_are_long():
    rules = everywhere(FIRST_TWO, max_polyphony=1)
    take = write(QUARTERS, FIRST_TWO, rules, SUSTAINING)
    notes = take.song.tracks[0].notes
    assert len(take.notes[0]) > 1
    assert (notes["onset"][:-1] + notes["duration"][:-1] <= notes["onset"][1:]).all()


def test_rhythm_kept_to_the_tick_and_the_velocity():
    song = make_song([Part([(7, 101, 60, 33), (13, 1, 64, 77), (900, 2000, 50, 1)])])
    take = write(song, FIRST_TWO, everywhere(FIRST_TWO, keep="rhythm"))
    assert [n[0:2] + n[3:] for n in sorted(take.notes[0].tolist())] == [
        (7, 101, 33),
        (13, 1, 77),
        (900, 2000, 1),
    ]


def test_pitches_kept_in_order():
    take = write(QUARTERS, FIRST_TWO, everywhere(FIRST_TWO, keep="pitch"))
    before = in_cells(QUARTERS, FIRST_TWO)["pitch"].tolist()
    assert take.notes[0]["pitch"].tolist() == before
    assert take.notes[0]["onset"].tolist() != in_cells(QUARTERS, FIRST_TWO)["onset"].tolist()


@pytest.mark.parametrize("likely", [{vocab.END: 9.0}, TALKATIVE, SUSTAINING])
@pytest.mark.parametrize("others", [{}, {"max_polyphony": 1}, {"grid": 24}, {"scale": {0, 7}}])
def test_as_many_notes_as_asked(likely, others):
    if "scale" in others:
        others = {"scale": frozenset(others["scale"])}
    take = write(QUARTERS, FIRST_TWO, everywhere(FIRST_TWO, notes=(4, 4), **others), likely)
    assert [c.n_notes for c in take.cells] == [4, 4]


def test_a_triad_on_every_downbeat():
    rules = everywhere(FIRST_TWO, notes=(3, 3), grid=96, scale=parse_scale("C E G"))
    take = write(QUARTERS, FIRST_TWO, rules, {vocab.END: 9.0})
    assert take.notes[0]["onset"].tolist() == [0] * 3 + [1920] * 3


def test_locked_notes_are_the_same_events():
    locks = (Lock(pitches=(60, 60)), Lock(beats=(3, 4)))
    before = in_cells(QUARTERS, FIRST_TWO)
    stay = [n for n in before.tolist() if n[2] == 60 or n[0] % 1920 >= 1440]
    take = write(QUARTERS, FIRST_TWO, everywhere(FIRST_TWO, locks=locks))
    after = in_cells(take.song, FIRST_TWO).tolist()
    assert len(stay) == 4
    assert set(stay) <= set(after)
    assert len(after) == len(stay) + take.n_notes > 6


def test_the_model_reads_what_stays_before_it_writes():
    engine = FakeEngine(TALKATIVE)
    rules = everywhere(FIRST_TWO, beats=(2, 4))
    infill(engine, Request(QUARTERS, FIRST_TWO, rules=rules, sampling=WILD))
    read = [vocab.name(row[0]) for row in engine.read]
    at = read.index("held")
    pitches = [name for name in read[at : read.index("fill") + 40] if name.startswith("pitch")]
    assert read[at - 1].startswith("program")
    assert pitches[:2] == ["pitch_60", "pitch_61"]


def test_part_of_a_bar():
    take = write(QUARTERS, FIRST_TWO, everywhere(FIRST_TWO, beats=(2, 4)))
    offsets = take.notes[0]["onset"] % 1920
    assert len(offsets) > 4
    assert offsets.min() >= 960
    kept = [n for n in QUARTERS.tracks[0].notes.tolist() if n[0] % 1920 < 960]
    assert set(kept) <= set(take.song.tracks[0].notes.tolist())


def test_no_note_across_the_bar_line():
    take = write(QUARTERS, FIRST_TWO, everywhere(FIRST_TWO, within_bar=True), SUSTAINING)
    notes = take.notes[0]
    assert (notes["onset"] // 1920 == (notes["onset"] + notes["duration"] - 1) // 1920).all()


def test_no_repetition_of_the_context_nor_of_earlier_takes():
    selection = Selection.of([0], [3])
    tight = {"grid": 24, "pitches": (60, 68), "notes": (4, 4), "max_polyphony": 1}
    rules = everywhere(selection, no_repeat=2, **tight)
    first = write(QUARTERS, selection, rules)
    write(QUARTERS, selection, rules, earlier=(first.song,))
    fails = violations(QUARTERS, first.song, selection, rules, (first.song,))
    assert {v.rule for v in fails} == {"no-repeat"}


def test_rules_are_reported():
    take = write(QUARTERS, FIRST_TWO, {(0, 0): Rules(grid=12, notes=(2, 3))})
    assert [c["rules"] for c in take.report["cells"]] == [["grid 1/8", "notes 2-3"], []]


# ---- what cannot be


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"scale": frozenset([1]), "pitches": (60, 60)}, "scale C#, range C4-C4"),
        ({"keep": "rhythm", "notes": (9, 9)}, "keep rhythm, notes 9"),
        ({"keep": "pitch", "scale": frozenset([6])}, "keep pitch, scale F#"),
        ({"keep": "pitch", "pitches": (10, 20)}, "keep pitch, range"),
        ({"keep": "rhythm", "grid": 96}, "keep rhythm, grid 1"),
        ({"notes": (5, 5), "grid": 24, "max_polyphony": 1}, "notes 5"),
        ({"notes": (3, 3), "grid": 96, "pitches": (60, 61)}, "notes 3"),
        ({"notes": (0, 1), "locks": (Lock(),)}, "notes 0-1, lock"),
        ({"beats": (8, 9)}, "beats 9-9"),
    ],
)
def test_rules_that_contradict_are_named_before_anything_is_written(rules, said):
    engine = FakeEngine()
    with pytest.raises(RuleError, match="bar 1") as refused:
        infill(engine, Request(QUARTERS, FIRST_TWO, rules=everywhere(FIRST_TWO, **rules)))
    assert said in str(refused.value)
    assert engine.read == []


def test_chords_do_not_fit_one_voice():
    song = make_song([Part([(0, 480, 60, 80), (0, 480, 64, 80)])])
    one = Selection.of([0], [0])
    with pytest.raises(RuleError, match="max-polyphony 1"):
        infill(
            FakeEngine(),
            Request(song, one, rules=everywhere(one, keep="rhythm", max_polyphony=1)),
        )


def test_rules_bind_selected_cells():
    with pytest.raises(RuleError, match="bar 9"):
        infill(FakeEngine(), Request(QUARTERS, FIRST_TWO, rules={(0, 8): Rules(grid=6)}))


# ---- all together

spans = st.tuples(st.integers(0, 8), st.integers(0, 4)).map(lambda s: (s[0], s[0] + s[1]))
ranges = st.tuples(st.integers(30, 70), st.integers(0, 30)).map(lambda s: (s[0], s[0] + s[1]))
lock = st.builds(
    Lock,
    st.none() | st.tuples(st.integers(40, 70), st.just(72)),
    st.none() | st.just((1, 2)) | st.just((0, 3)),
)


def often_none(strategy):
    return st.one_of(st.none(), st.none(), strategy)


some_rules = st.builds(
    Rules,
    scale=often_none(st.frozensets(st.integers(0, 11), min_size=1)),
    pitches=often_none(ranges),
    max_polyphony=often_none(st.integers(1, 4)),
    grid=often_none(st.sampled_from([3, 4, 6, 8, 12, 24, 48])),
    keep=often_none(st.sampled_from(["rhythm", "pitch"])),
    notes=often_none(spans),
    within_bar=st.booleans(),
    no_repeat=often_none(st.integers(1, 4)),
    locks=st.lists(lock, max_size=1).map(tuple),
    beats=often_none(st.just((1, 3))),
)


@st.composite
def songs(draw):
    per_quarter = draw(st.sampled_from([480, 480, 96, 100, 10]))
    ticks = st.integers(0, 16 * per_quarter)
    notes = st.tuples(
        ticks, st.integers(0, 6 * per_quarter), st.integers(48, 72), st.integers(1, 127)
    )
    parts = [
        Part(draw(st.lists(notes, max_size=25)), program, channel)
        for program, channel in ((0, 0), (33, 1), (0, 9), (0, 0))
    ]
    meters = draw(
        st.sampled_from(
            [[(0, 4, 4)], [(0, 7, 8)], [(0, 7, 4)], [(0, 4, 4), (per_quarter * 5, 3, 4)]]
        )
    )
    song = make_song(parts, meters, per_quarter=per_quarter)
    return song.extended(max(4 - song.n_bars, 0))


@settings(max_examples=70, deadline=None)
@given(songs(), st.data())
def test_any_rules_are_kept_or_refused(song, data):
    cells = st.tuples(st.integers(0, len(song.tracks) - 1), st.integers(0, 3))
    if not song.tracks:
        return
    selection = Selection(data.draw(st.frozensets(cells, min_size=1, max_size=6)))
    bound = data.draw(st.dictionaries(st.sampled_from(sorted(selection.cells)), some_rules))
    likely = data.draw(st.sampled_from([TALKATIVE, SUSTAINING, {vocab.END: 2.0}]))
    engine = FakeEngine(likely)
    try:
        write(song, selection, bound, likely, seed=data.draw(st.integers(0, 99)))
    except RuleError:
        assert bound
        assert engine.read == []


def test_rules_are_cheap():
    song, selection = band(8), Selection.of([0, 1, 2], range(2, 6))
    rules = everywhere(
        selection, max_polyphony=3, scale=parse_scale("C major"), notes=(6, 12), no_repeat=3
    )
    from anser.grammar import Spelling

    spent, asked = [], Spelling.allowed

    def timed(grammar):
        start = time.perf_counter()
        mask = asked(grammar)
        spent.append(time.perf_counter() - start)
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spelling, "allowed", timed)
        write(song, selection, rules)
    assert len(spent) > 100
    assert np.mean(spent) < 2e-3  # ten times what is usual, for slow machines


# ---- in a terminal


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command line beside the demo song; returns exit code and stderr."""
    model = write_model(tmp_path / "tiny.safetensors")
    demo.song().write(tmp_path / "song.mid")
    monkeypatch.chdir(tmp_path)

    def run(*words):
        with_model = () if words[0] == "apply" else ("--model", str(model))
        monkeypatch.setattr(sys, "argv", ["anser", *words, *with_model])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


FILL = ["infill", "song.mid", "--cells", "bass:10", "-o", "out.mid"]


def test_the_examples_of_the_page_run(call):
    page = (Path(__file__).parents[1] / "docs" / "control.md").read_text(encoding="utf-8")
    blocks = [part.split("```")[0] for part in page.split("```bash\n")[1:]]
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) > 20
    typed = {word[2:].replace("-", "_") for line in lines for word in shlex.split(line)}
    assert {*CONTROL_WORDS, *NAMES, "lock", "strength", "loosely"} <= typed
    for line in lines:
        assert call(*shlex.split(line)[1:]) == (0, ""), line


def test_new_bars_are_bound_too(call):
    code, _ = call("continue", "song.mid", "--bars", "1", "-o", "out.mid", "--notes", "bass=5")
    assert code == 0
    longer, after = demo.song().extended(1), Song.read("out.mid")
    onsets = after.tracks[4].notes["onset"]
    assert (onsets >= longer.bars.starts[-2]).sum() == 5


def test_typed_rules_are_kept(call):
    words = "--scale|C major|--range|C2-C4|--max-polyphony|2|--grid|1/16|--notes|bass=3-9"
    code, _ = call(
        *FILL, *words.split("|"), "--no-repeat", "4", "--within-bar", "--lock", "10:beat 1"
    )
    assert code == 0
    before, after = demo.song(), Song.read("out.mid")
    selection = Selection.parse("bass:10", before)
    rules = Rules.parse(
        scale="C major", range="C2-C4", max_polyphony="2", grid="1/16", notes="3-9", no_repeat="4"
    )
    rules = replace(rules, within_bar=True, locks=parse_locks("beat 1"))
    assert violations(before, after, selection, dict.fromkeys(selection.cells, rules)) == []
    assert differences(before, after, selection) == []


def test_rules_that_contradict_exit_with_3(call):
    code, said = call(*FILL, "--keep", "rhythm", "--notes", "1")
    assert code == 3
    assert "keep rhythm, notes 1" in said
    assert not Path("out.mid").exists()


def test_what_is_no_rule_exits_with_2(call):
    assert call(*FILL, "--scale", "Q major")[0] == 2
