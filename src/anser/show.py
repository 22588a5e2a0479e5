"""Song → what a musician wants to know of it: tracks, bars, meters, tempi, what to pass to infill.

`facts` are for machines, `print_tables` is for people. Tracks and bars count from 1 here.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anser.chords import recognize
from anser.codec import encode
from anser.instruments import instrument_name
from anser.rules import pitch_name
from anser.selection import Selection
from anser.song import Song
from anser.tracks import Track
from anser.vocab import GRID

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLE_BARS: Final = 4
MOST_ROWS: Final = 100  # tracks in the table
MOST_LISTED: Final = 6  # changes of meter that are named one by one


def facts(song: Song) -> dict[str, Any]:
    """Return what `anser show --json` prints."""
    return {
        "song": song.name,
        "bars": song.n_bars,
        "seconds": round(seconds(song), 2),
        "ticks_per_quarter": song.ticks_per_quarter,
        "meters": [{"bar": bar + 1, "meter": meter} for bar, meter in _meters(song)],
        "tempos": [
            {"bar": bar, "quarters_per_minute": round(60e6 / microseconds, 3)}
            for bar, microseconds in _tempos(song)
        ],
        "tracks": [_track_facts(song, number) for number in range(len(song.tracks))],
        "example": example(song),
        "repairs": list(song.repairs),
    }


def seconds(song: Song) -> float:
    """Return how long the song lasts, to its last bar line."""
    ends = np.append(song.tempos["tick"][1:], song.bars.starts[-1])
    ticks = np.clip(ends - song.tempos["tick"], 0, None)
    ticks = np.minimum(ticks, np.clip(song.bars.starts[-1] - song.tempos["tick"], 0, None))
    return float((ticks * song.tempos["microseconds"]).sum() / song.ticks_per_quarter / 1e6)


def playing_bars(song: Song, track: int) -> list[int]:
    """Return the bars, counted from 0, in which notes of a track begin."""
    bars = np.unique(song.bars.at(song.tracks[track].notes["onset"]))
    return [int(bar) for bar in bars if bar < song.n_bars]


def spelled_bars(bars: list[int]) -> str:
    """Return bars, counted from 0, as the option --bars takes them: "1-4+9-12"."""
    return Selection.of([0], bars).spelled().partition(":")[2]


def example(song: Song, path: str = "") -> str:
    """Return a call of `anser infill` that suits the song; empty where it has no track."""
    if not song.tracks:
        return ""
    bars_of = [playing_bars(song, track) for track in range(len(song.tracks))]
    track = max(range(len(bars_of)), key=lambda number: (len(bars_of[number]), -number))
    bars = bars_of[track] or [0]
    first = bars[len(bars) // 2] // EXAMPLE_BARS * EXAMPLE_BARS
    last = min(first + EXAMPLE_BARS, song.n_bars)
    source = shlex.quote(path or song.name)
    bars_wanted = spelled_bars(list(range(first, last)))
    return f"anser infill {source} --track {track + 1} --bars {bars_wanted} -o out.mid"


def print_tables(song: Song, console: Console, path: str = "") -> None:
    """Print the song's facts for people."""
    from rich.markup import escape
    from rich.table import Table

    counts = f"{_counted(song.n_bars, 'bar')}, {_counted(len(song.tracks), 'track')}"
    length = round(seconds(song))
    console.print(f"[bold]{escape(song.name)}[/bold]: {counts}, {length // 60}:{length % 60:02d}")
    console.print(f"meter {_spelled_meters(song)} · {_spelled_tempos(song)}", highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("#", "track", "instrument", "channel", "notes", "range", "plays in bars"):
        right = heading in ("#", "channel", "notes")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for number, track in enumerate(song.tracks[:MOST_ROWS]):
        table.add_row(
            str(number + 1),
            escape(track.name),
            instrument_name(track.program, is_drum=track.is_drum)
            + ("" if track.is_drum else f" ({track.program})"),
            str(track.channel + 1),
            str(len(track.notes)),
            _spelled_range(track),
            spelled_bars(playing_bars(song, number)) or "none",
        )
    console.print(table)
    if len(song.tracks) > MOST_ROWS:
        console.print(f"and {len(song.tracks) - MOST_ROWS} more tracks; --json lists all")
    if song.tracks:
        console.print(
            f"\nTo write four of its bars anew:\n  {escape(example(song, path))}", width=300
        )


def chord_facts(song: Song) -> list[dict[str, Any]]:
    """Return the chords that are heard in each bar, with the beat (from 1) where each begins."""
    heard = recognize(encode(song), range(song.n_bars))
    return [
        {
            "bar": bar + 1,
            "chords": [{"beat": at / GRID + 1, "chord": name} for at, name in chords],
        }
        for bar, chords in enumerate(heard)
    ]


def print_chords(song: Song, console: Console) -> None:
    """Print the chords that are heard, four bars a line."""
    bars = [" ".join(c["chord"] for c in bar["chords"]) for bar in chord_facts(song)]
    console.print("\nchords, as far as they are heard (N = none):")
    width = len(str(len(bars)))
    for first in range(0, len(bars), EXAMPLE_BARS):
        line = " | ".join(bars[first : first + EXAMPLE_BARS])
        console.print(f"  {first + 1:>{width}}  {line}", highlight=False)


def _track_facts(song: Song, number: int) -> dict[str, Any]:
    track = song.tracks[number]
    pitches = track.notes["pitch"]
    return {
        "track": number + 1,
        "name": track.name,
        "instrument": instrument_name(track.program, is_drum=track.is_drum),
        "program": track.program,
        "is_drum": track.is_drum,
        "channel": track.channel + 1,
        "notes": len(track.notes),
        "lowest": pitch_name(int(pitches.min())) if len(pitches) else None,
        "highest": pitch_name(int(pitches.max())) if len(pitches) else None,
        "bars": spelled_bars(playing_bars(song, number)),
    }


def _meters(song: Song) -> list[tuple[int, str]]:
    """Return (bar from 0, meter) where the meter changes, the first bar included."""
    numerators, denominators = song.bars.numerators.tolist(), song.bars.denominators.tolist()
    spelled = [f"{n}/{d}" for n, d in zip(numerators, denominators, strict=True)]
    return [(b, m) for b, m in enumerate(spelled) if b == 0 or m != spelled[b - 1]]


def _tempos(song: Song) -> list[tuple[int, int]]:
    """Return (bar from 1, microseconds a quarter) of the tempo changes inside the song."""
    inside = song.tempos[song.tempos["tick"] < song.bars.starts[-1]]
    bars = song.bars.at(inside["tick"]) + 1
    pairs = list(zip(bars.tolist(), inside["microseconds"].tolist(), strict=True))
    return [p for i, p in enumerate(pairs) if i == 0 or p[1] != pairs[i - 1][1]]


def _spelled_meters(song: Song) -> str:
    meters = _meters(song)
    shown = [f"{meter} from bar {bar + 1}" for bar, meter in meters[:MOST_LISTED]]
    more = f" and {len(meters) - MOST_LISTED} more changes" if len(meters) > MOST_LISTED else ""
    return meters[0][1] if len(meters) == 1 else ", ".join(shown) + more


def _spelled_tempos(song: Song) -> str:
    tempos = [60e6 / microseconds for _, microseconds in _tempos(song)]
    if len(tempos) == 1:
        return f"{tempos[0]:.4g} quarters a minute"
    changes = _counted(len(tempos) - 1, "change")
    return f"{min(tempos):.4g} to {max(tempos):.4g} quarters a minute ({changes})"


def _spelled_range(track: Track) -> str:
    """Return the lowest and highest pitch; a drum kit has strokes, not pitches."""
    if track.is_drum or not len(track.notes):
        return ""
    low, high = int(track.notes["pitch"].min()), int(track.notes["pitch"].max())
    return pitch_name(low) if low == high else f"{pitch_name(low)} to {pitch_name(high)}"


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
