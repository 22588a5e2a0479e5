"""Raw events → the bar lines and the tempo of a song."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anser.errors import MidiError
from anser.midi import META, META_METER, META_TEMPO, MidiFile

TEMPO = np.dtype([("tick", "<i8"), ("microseconds", "<i8")])
DEFAULT_TEMPO = 500_000  # microseconds a quarter: 120 quarters a minute

# (tick, numerator, denominator): a meter, and where its first bar begins
Meter = tuple[int, int, int]
DEFAULT_METER: Meter = (0, 4, 4)
MOST_BARS = 100_000  # far beyond any song, yet no strain on memory
LARGEST_DENOMINATOR_POWER = 6  # 1/64; beyond, files are damaged rather than daring


@dataclass(frozen=True, eq=False)
class Bars:
    """Bar lines in ticks, int64 [n_bars + 1] (the last one ends the last bar), and meters [n_bars].

    A bar cut short by the next time signature keeps the meter it began with: what it lasts is the
    distance of its bar lines.
    """

    starts: NDArray[np.int64]
    numerators: NDArray[np.int64]
    denominators: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numerators)

    def at(self, ticks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the bar that each tick lies in; n_bars for those behind the last bar line."""
        return np.searchsorted(self.starts, ticks, "right").astype(np.int64) - 1


def ticks_per_quarter(division: int) -> int:
    """Return ticks a quarter; in SMPTE time, which knows no quarters, half a second's ticks."""
    if not division & 0x8000:
        return division
    frames = 256 - (division >> 8)
    frames_per_second = 29.97 if frames == 29 else float(frames)
    return max(1, round(frames_per_second * (division & 0xFF) / 2))


def read_meters(midi: MidiFile, ticks_quarter: int) -> list[Meter]:
    """Return the meters of a song in order of time, the first at tick 0.

    Signatures are taken from any MTrk, the last one at a tick holds; those that make no bar (no
    numerator, a denominator beyond 64, less than a tick a beat) are passed over.
    """
    meters = {0: DEFAULT_METER}
    for event in _metas(midi, META_METER):
        payload = midi.meta_payload(event)
        if len(payload) < 2 or payload[0] == 0 or payload[1] > LARGEST_DENOMINATOR_POWER:
            continue
        numerator, denominator = payload[0], 1 << payload[1]
        if 4 * ticks_quarter >= denominator:
            tick = int(midi.events["tick"][event])
            meters[tick] = (tick, numerator, denominator)
    return [meters[tick] for tick in sorted(meters)]


def read_tempos(midi: MidiFile) -> NDArray[np.void]:
    """Return the tempo changes (TEMPO), the first at tick 0; the last one at a tick holds."""
    tempos = {0: DEFAULT_TEMPO}
    if not midi.division & 0x8000:  # SMPTE time runs by the clock, whatever the tempo
        for event in _metas(midi, META_TEMPO):
            payload = midi.meta_payload(event)
            if microseconds := int.from_bytes(payload[:3], "big"):
                tempos[int(midi.events["tick"][event])] = microseconds
    return np.array(sorted(tempos.items()), TEMPO)


def _metas(midi: MidiFile, kind: int) -> list[int]:
    """Return the indices of the meta events of one type, in order of time."""
    found = np.flatnonzero((midi.events["status"] == META) & (midi.events["data1"] == kind))
    order = np.argsort(midi.events["tick"][found], kind="stable")
    return [int(event) for event in found[order]]


def make_bars(meters: list[Meter], ticks_quarter: int, end_tick: int, n_least: int = 1) -> Bars:
    """Return the bars up to the first bar line at or behind `end_tick`, at least `n_least` bars.

    A meter that begins inside a bar ends that bar. Raises MidiError if there would be more than
    MOST_BARS.
    """
    starts, numerators, denominators = [], [], []
    n_bars = 0
    line = 0
    for meter, following in zip(meters, [*meters[1:], None], strict=True):
        line, numerator, denominator = meter
        whole = 4 * ticks_quarter * numerator  # a bar lasts whole / denominator ticks
        n_here = max(-((line - end_tick) * denominator // whole), n_least - n_bars, 0)
        n_fitting = n_here
        if following is not None:
            n_fitting = min(n_here, -((line - following[0]) * denominator // whole))
        n_bars += n_fitting
        if n_bars > MOST_BARS:
            raise MidiError(
                f"tick {end_tick}: expected at most {MOST_BARS} bars, found {n_bars} or more. "
                "A delta time or the number of ticks a quarter may be damaged."
            )
        starts.append(line + np.arange(n_fitting, dtype=np.int64) * whole // denominator)
        numerators.append(np.full(n_fitting, numerator, np.int64))
        denominators.append(np.full(n_fitting, denominator, np.int64))
        line += n_fitting * whole // denominator
        if following is not None:
            line = min(line, following[0])
        if line >= end_tick and n_bars >= n_least:
            break
    starts.append(np.array([line], np.int64))
    return Bars(np.concatenate(starts), np.concatenate(numerators), np.concatenate(denominators))
