import numpy as np
from PIL import Image

from anser import roll
from anser.selection import Selection
from songs import Part, band, make_song


def _count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == colour).all(axis=2).sum())


def test_selected_cells_are_marked():
    song = band(8)
    plain = roll.draw(song)
    marked = roll.draw(song, Selection.of([1], range(2, 4)))
    assert plain.size == marked.size
    assert _count(plain, roll.MARK) == 0
    one_cell = (marked.width - roll.GUTTER) / 8 * roll.LANE_HEIGHT
    assert one_cell < _count(marked, roll.MARK) < 2 * one_cell


def test_higher_notes_stand_higher_and_later_ones_to_the_right():
    song = make_song([Part([(0, 480, 40, 127), (3 * 480, 480, 80, 127)])])
    ys, xs = np.nonzero((np.asarray(roll.draw(song)) == roll.HUES[0]).all(axis=2))
    notes = xs > roll.GUTTER
    ys, xs = ys[notes], xs[notes]
    middle = (xs.min() + xs.max()) / 2
    assert ys[xs < middle].min() > ys[xs > middle].max()


def test_soft_notes_are_lighter():
    assert sum(roll._shade(roll.HUES[0], 10)) > sum(roll._shade(roll.HUES[0], 120))


def test_long_songs_stay_within_bounds():
    image = roll.draw(make_song([Part([(480 * 4 * 3999, 480, 60, 90)])]))
    assert image.width < roll.MAX_WIDTH + roll.GUTTER + 100


def test_of_many_tracks_the_selected_ones_are_shown():
    song = make_song([Part([(0, 480, 60, 90)], channel=n % 9, name=f"part {n}") for n in range(40)])
    image = roll.draw(song, Selection.of([39], [0]))
    assert image.height < (roll.MAX_LANES + 2) * (roll.LANE_HEIGHT + roll.LANE_GAP)
    assert _count(image, roll.MARK_EDGE) > 0


def test_a_song_without_tracks_and_odd_meters_can_be_drawn(tmp_path):
    roll.write(tmp_path / "empty.png", make_song([]))
    song = make_song([Part([(0, 60, 60, 1)])], ((0, 1, 16), (120, 7, 8), (1000, 4, 4)))
    roll.write(tmp_path / "odd.png", song.extended(3))
    with Image.open(tmp_path / "odd.png") as image:
        assert image.format == "PNG"


def test_long_names_are_cut_to_fit():
    name = "a very long name of a track, as sequencers write them"
    assert roll._clipped(name, 100, 15).endswith("…")
    assert roll._clipped("short", 100, 15) == "short"
