"""Song → a picture of it: a piano roll with one lane a track, the selection marked.

Knows nothing of models. Pillow is imported when a picture is drawn, not before.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from anser.instruments import instrument_name
from anser.midi import write_file
from anser.selection import Selection
from anser.song import Song

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]

PAPER: Final[Colour] = (255, 255, 255)
LANE: Final[Colour] = (247, 248, 250)
INK: Final[Colour] = (34, 38, 46)
FAINT_INK: Final[Colour] = (122, 130, 143)
BAR_LINE: Final[Colour] = (203, 208, 216)
BEAT_LINE: Final[Colour] = (233, 235, 240)
MARK: Final[Colour] = (255, 240, 205)
MARK_EDGE: Final[Colour] = (224, 148, 20)
# One hue a track, told apart also by most colour-blind eyes; more tracks begin again.
HUES: Final[tuple[Colour, ...]] = (
    (38, 96, 196),
    (204, 84, 28),
    (22, 134, 108),
    (150, 64, 168),
    (190, 40, 92),
    (96, 110, 24),
    (20, 124, 164),
    (124, 84, 52),
)

MAX_LANES: Final = 32  # further tracks are named in a last line
MAX_WIDTH: Final = 10_000  # pixels; a longer song is drawn narrower
MAX_BAR: Final = 160  # pixels a quarter-rich bar may take, and
MIN_BAR: Final = 8  # what the narrowest may
IDEAL_WIDTH: Final = 1_800  # pixels for all bars of a short song
GUTTER: Final = 260  # pixels left of the first bar, for names
RULER: Final = 44  # above the first lane, for bar numbers
LANE_HEIGHT: Final = 104
LANE_GAP: Final = 10
MARGIN: Final = 20
MIN_ROUND: Final = 6  # pixels of the smallest note whose corners are rounded
MIN_PITCHES: Final = 18  # a lane shows at least so many semitones, so that a drone stays thin


@dataclass(frozen=True)
class _Sheet:
    """Where things lie: pixels of bar lines, of lanes, and the tracks that have a lane."""

    bar_lines: NDArray[np.float64]  # [n_bars + 1]
    starts: NDArray[np.int64]  # ticks of the same lines
    tracks: tuple[int, ...]
    width: int
    height: int

    def x(self, ticks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the pixel of each tick, at most the last bar line."""
        return np.interp(ticks, self.starts, self.bar_lines)

    def lane(self, place: int) -> tuple[int, int]:
        """Return top and bottom of a lane."""
        top = MARGIN + RULER + place * (LANE_HEIGHT + LANE_GAP)
        return top, top + LANE_HEIGHT


def draw(song: Song, selection: Selection | None = None, *, title: str = "") -> Image:
    """Draw the song, an RGB picture: time to the right, pitch upwards, loud notes darker.

    The selected cells stand on a marked ground. Lanes follow the order of the song's tracks; of
    more than 32 tracks, the selected ones and then the first are shown.
    """
    from PIL import Image, ImageDraw

    cells = selection.cells if selection else frozenset()
    sheet = _lay_out(song, cells)
    image = Image.new("RGB", (sheet.width, sheet.height), PAPER)
    pen = ImageDraw.Draw(image)
    _draw_lanes(pen, sheet, song, cells)
    _draw_ruler(pen, sheet, song, title or song.name)
    for place, track in enumerate(sheet.tracks):
        _draw_notes(pen, sheet, song, (place, track))
        _draw_name(pen, sheet, song, (place, track))
    if hidden := len(song.tracks) - len(sheet.tracks):
        at = (MARGIN, sheet.height - MARGIN)
        pen.text(at, f"and {hidden} more tracks", FAINT_INK, _font(15), "lb")
    return image


def write(
    path: str | os.PathLike[str], song: Song, selection: Selection | None = None, *, title: str = ""
) -> None:
    """Draw the song into a PNG file, whole or not at all; raises AnserError if it cannot be."""
    png = io.BytesIO()
    draw(song, selection, title=title).save(png, "PNG", optimize=True)
    write_file(path, png.getvalue())


def _lay_out(song: Song, cells: frozenset[tuple[int, int]]) -> _Sheet:
    selected = {track for track, _ in cells}
    order = sorted(range(len(song.tracks)), key=lambda track: (track not in selected, track))
    tracks = tuple(sorted(order[:MAX_LANES]))
    starts = song.bars.starts
    ideal = min(max(IDEAL_WIDTH / song.n_bars, 2 * MIN_BAR), MAX_BAR)
    per_bar = max(min(ideal, MAX_WIDTH / song.n_bars), MAX_WIDTH / 100_000)
    # a bar is as wide as it is long, measured in bars of the usual length
    lengths = np.diff(starts) / max(float(np.median(np.diff(starts))), 1.0)
    widths = lengths * per_bar * min(1.0, song.n_bars / max(float(lengths.sum()), 1e-9))
    bar_lines = GUTTER + MARGIN + np.concatenate(([0.0], np.cumsum(widths)))
    height = 2 * MARGIN + RULER + len(tracks) * (LANE_HEIGHT + LANE_GAP) - LANE_GAP
    height += 2 * MARGIN if len(tracks) < len(song.tracks) else 0
    width = int(bar_lines[-1]) + 2 * MARGIN
    return _Sheet(bar_lines, starts, tracks, width, max(height, 2 * MARGIN + RULER))


def _draw_lanes(pen: Any, sheet: _Sheet, song: Song, cells: frozenset[tuple[int, int]]) -> None:  # noqa: ANN401
    """Draw grounds, marks, and the lines of bars and beats."""
    lines = sheet.bar_lines
    wide = float(np.median(np.diff(lines))) >= 5 * MIN_BAR
    for place, track in enumerate(sheet.tracks):
        top, bottom = sheet.lane(place)
        pen.rectangle((lines[0], top, lines[-1], bottom), LANE)
        bars = sorted(bar for other, bar in cells if other == track and bar < song.n_bars)
        for bar in bars:
            pen.rectangle((lines[bar], top, lines[bar + 1], bottom), MARK)
        if wide:
            for x in _beats(sheet, song):
                pen.line((x, top, x, bottom), BEAT_LINE)
        for bar in _ruled_bars(song, lines):
            pen.line((lines[bar], top, lines[bar], bottom), BAR_LINE)
        pen.line((lines[-1], top, lines[-1], bottom), BAR_LINE)
        for first, last in _runs(bars):
            pen.rectangle((lines[first], top, lines[last + 1], bottom), outline=MARK_EDGE, width=3)


def _draw_ruler(pen: Any, sheet: _Sheet, song: Song, title: str) -> None:  # noqa: ANN401
    """Write the title, and bar numbers as close as they fit."""
    baseline = MARGIN + RULER - 12
    pen.text((MARGIN, baseline), _clipped(title, GUTTER - MARGIN, 20), INK, _font(20), "ls")
    next_free = 0.0
    for bar in _ruled_bars(song, sheet.bar_lines):
        x = float(sheet.bar_lines[bar])
        if x >= next_free:
            pen.text((x + 3, baseline), str(bar + 1), FAINT_INK, _font(16), "ls")
            next_free = x + 12 * len(str(bar + 1)) + 16


def _draw_notes(pen: Any, sheet: _Sheet, song: Song, lane: tuple[int, int]) -> None:  # noqa: ANN401
    place, track = lane
    notes = song.tracks[track].notes
    if not len(notes):
        return
    top, _ = sheet.lane(place)
    low, high = int(notes["pitch"].min()), int(notes["pitch"].max())
    spare = max(MIN_PITCHES - (high - low + 1), 0)
    low, high = low - spare // 2, high + spare - spare // 2
    row = (LANE_HEIGHT - 12) / (high - low + 1)
    begins = sheet.x(notes["onset"])
    ends = sheet.x(notes["onset"] + notes["duration"])
    if song.tracks[track].is_drum:
        ends = np.minimum(ends, begins + 7)  # a stroke has no length that is heard
    ends = np.maximum(ends - 1, begins + 3)
    hue = HUES[track % len(HUES)]
    for x, right, pitch, velocity in zip(
        begins.tolist(), ends.tolist(), notes["pitch"], notes["velocity"], strict=True
    ):
        y = top + 6 + (high - int(pitch)) * row
        box = (x + 1, y, right, max(y + row - 1, y + 2))
        if min(right - x - 1, box[3] - y) < MIN_ROUND:
            pen.rectangle(box, _shade(hue, int(velocity)))
        else:
            pen.rounded_rectangle(box, 2, _shade(hue, int(velocity)))


def _draw_name(pen: Any, sheet: _Sheet, song: Song, lane: tuple[int, int]) -> None:  # noqa: ANN401
    """Write the track's number, name and instrument to the left of its lane."""
    place, track = lane
    top, _ = sheet.lane(place)
    part = song.tracks[track]
    hue = HUES[track % len(HUES)]
    pen.rounded_rectangle((MARGIN, top + 8, MARGIN + 6, top + LANE_HEIGHT - 8), 3, hue)
    left, room = MARGIN + 18, GUTTER - MARGIN - 18
    name = _clipped(f"{track + 1}  {part.name}", room, 19)
    instrument = _clipped(instrument_name(part.program, is_drum=part.is_drum), room, 15)
    pen.text((left, top + LANE_HEIGHT // 2 - 4), name, INK, _font(19), "ls")
    if instrument.casefold() not in part.name.casefold():
        pen.text((left, top + LANE_HEIGHT // 2 + 18), instrument, FAINT_INK, _font(15), "ls")


def _beats(sheet: _Sheet, song: Song) -> list[float]:
    """Return the pixels of the beats inside bars."""
    ticks: list[int] = []
    bars = song.bars
    for start, stop, denominator in zip(
        bars.starts[:-1].tolist(), bars.starts[1:].tolist(), bars.denominators.tolist(), strict=True
    ):
        beat = max(4 * song.ticks_per_quarter // denominator, 1)
        ticks += range(start + beat, stop, beat)
    return [float(x) for x in sheet.x(np.array(ticks, np.int64))] if ticks else []


def _ruled_bars(song: Song, lines: NDArray[np.float64]) -> list[int]:
    """Return the bars whose line is drawn: all, or every few where they are narrow."""
    per_bar = float(lines[-1] - lines[0]) / song.n_bars
    step = next((s for s in (1, 2, 4, 8, 16) if s * per_bar >= 2 * MIN_BAR), 64)
    return list(range(0, song.n_bars, step))


def _runs(bars: list[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive bars, as (first, last)."""
    runs: list[tuple[int, int]] = []
    for bar in bars:
        if runs and bar == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], bar)
        else:
            runs.append((bar, bar))
    return runs


def _shade(hue: Colour, velocity: int) -> Colour:
    """Return the hue, lightened for soft notes."""
    light = 0.55 * (1 - min(velocity, 127) / 127)
    red, green, blue = (round(c + (255 - c) * light) for c in hue)
    return red, green, blue


def _clipped(text: str, room: int, size: int) -> str:
    """Return the text, cut short with an ellipsis where it is wider than `room` pixels."""
    shown = text
    while len(shown) > 1 and _font(size).getlength(shown) > room:
        shown = shown.rstrip("…")[:-1] + "…"
    return shown


def _font(size: int) -> Any:  # noqa: ANN401  # FreeType or bitmap, as Pillow was built
    from PIL import ImageFont

    return ImageFont.load_default(size)
