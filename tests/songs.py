"""Small songs for tests, built with mido so that our own writer is not its own judge."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import mido
import numpy as np

from anser.song import Song

PER_QUARTER = 480


@dataclass(frozen=True)
class Part:
    """One track: onset, duration (ticks), pitch, velocity of each note."""

    notes: Sequence[tuple[int, int, int, int]]
    program: int = 0
    channel: int = 0
    name: str = ""


def make_song(
    parts: Sequence[Part],
    meters: Sequence[tuple[int, int, int]] = ((0, 4, 4),),
    tempo: int = 500_000,
    per_quarter: int = PER_QUARTER,
) -> Song:
    """Return a song with (tick, numerator, denominator) meters."""
    file = mido.MidiFile(type=1, ticks_per_beat=per_quarter)
    events = [
        (tick, mido.MetaMessage("time_signature", numerator=n, denominator=d))
        for tick, n, d in meters
    ]
    file.tracks.append(_track([(0, mido.MetaMessage("set_tempo", tempo=tempo)), *events]))
    for part in parts:
        events = [(0, mido.MetaMessage("track_name", name=part.name))] if part.name else []
        events.append(
            (0, mido.Message("program_change", channel=part.channel, program=part.program))
        )
        for onset, duration, pitch, velocity in part.notes:
            on = mido.Message("note_on", channel=part.channel, note=pitch, velocity=velocity)
            off = mido.Message("note_off", channel=part.channel, note=pitch, velocity=0)
            events += [(onset, on), (onset + duration, off)]
        file.tracks.append(_track(events))
    data = io.BytesIO()
    file.save(file=data)
    return Song.from_bytes(data.getvalue(), name="test.mid")


def _track(events: Sequence[tuple[int, mido.Message]]) -> mido.MidiTrack:
    # note-offs first at equal ticks, so that repeated pitches pair up
    order = sorted(events, key=lambda e: (e[0], e[1].type != "note_off"))
    track, now = mido.MidiTrack(), 0
    for tick, message in order:
        track.append(message.copy(time=tick - now))
        now = tick
    return track


def random_part(
    rng: np.random.Generator, n_bars: int, *, channel: int = 0, program: int = 0, step: int = 20
) -> Part:
    """Return a part with notes on multiples of `step` ticks in 4/4 bars."""
    low, high = (35, 60) if channel == 9 else (48, 80)
    notes = [
        (
            int(rng.integers(n_bars * 4 * PER_QUARTER // step)) * step,
            int(rng.integers(1, 60)) * step,
            int(rng.integers(low, high)),
            int(rng.integers(1, 128)),
        )
        for _ in range(n_bars * 6)
    ]
    return Part(notes, program, channel, f"part {channel}")


def band(n_bars: int = 16, seed: int = 0) -> Song:
    """Return a song with piano, bass and drums."""
    rng = np.random.default_rng(seed)
    return make_song(
        [
            random_part(rng, n_bars, channel=0, program=0),
            random_part(rng, n_bars, channel=1, program=33),
            random_part(rng, n_bars, channel=9),
        ]
    )
