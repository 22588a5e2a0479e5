"""The Python door: the same words as the command line's, or controls and rules themselves."""

import pytest

import anser
from anser import demo
from anser.controls import Controls
from anser.errors import ControlError
from anser.rules import Rules
from tiny_model import write_model

CELLS = "bass:13-14, drums:13"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return anser.load(write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"), threads=1)


@pytest.fixture(scope="module")
def song():
    return demo.song()


def test_words_are_those_of_the_command_line(model, song):
    take = model.infill(
        song,
        CELLS,
        density=[6, "drums=12"],
        polyphony="bass=1",
        chords="Am F | C",
        like="bass=14:5@0.5",
        scale="D dorian",
        within_bar=True,
    )[0]
    cells = {(cell.track, cell.bar): cell for cell in take.cells}
    assert {at: cell.asked.density for at, cell in cells.items()} == {
        **{(4, 12): 6, (4, 13): 6, (5, 12): 12}
    }
    assert cells[4, 13].asked == Controls(
        density=6, fewest=1, most=1, chords=((0, "C"),), reference=4, likeness=0.5
    )
    assert cells[5, 12].asked == Controls(density=12)
    for cell in cells.values():
        assert list(cell.rules.named) == ["scale", "within_bar"]
        assert cell.broken == ()


def test_controls_and_rules_are_for_every_cell_or_for_some(model, song):
    few, bound = Controls(density=2), Rules(within_bar=True)
    take = model.infill(song, CELLS, controls=few, rules={(4, 12): bound})[0]
    assert [cell.asked for cell in take.cells] == [few] * 3
    assert [(cell.track, cell.bar) for cell in take.cells if cell.rules == bound] == [(4, 12)]
    take = model.infill(song, CELLS, controls={(4, 12): few}, notes="1-9")[0]
    assert [(cell.track, cell.bar) for cell in take.cells if cell.asked == few] == [(4, 12)]
    assert all(cell.rules.notes == (1, 9) for cell in take.cells)


def test_words_and_values_give_the_same_bytes(model, song):
    words = model.infill(song, CELLS, density=4, notes=3, seed=5)[0]
    values = model.infill(
        song, CELLS, controls=Controls(density=4), rules=Rules(notes=(3, 3)), seed=5
    )[0]
    assert words.song.to_bytes() == values.song.to_bytes()
    streamed = list(model.stream(song, CELLS, density=4, notes=3, seed=5))
    assert sum(len(event.notes) for event in streamed) == words.n_notes


@pytest.mark.parametrize("words", [{"desnity": 4}, {"takes_": 2}, {"temperature": 1.5}])
def test_other_words_are_refused(model, song, words):
    with pytest.raises(ControlError, match="expected"):
        model.infill(song, CELLS, **words)
