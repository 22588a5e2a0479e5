"""Notes → tracks, one for each MTrk, channel and program, named as a musician would."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anser.instruments import DRUM_CHANNEL, instrument_name
from anser.midi import META, META_NAME, MidiFile
from anser.notes import NOTE, parts_of


@dataclass(frozen=True, eq=False)
class Track:
    """What one instrument plays: the notes of one MTrk, channel and program.

    `notes`: NOTE [n], sorted by (onset, pitch); `chunk`: which MTrk; `channel`: 0-15. A note of no
    duration is possible.
    """

    name: str
    program: int
    is_drum: bool
    channel: int
    chunk: int
    notes: NDArray[np.void] = field(repr=False)

    @property
    def part(self) -> int:
        """MTrk, channel and program as one number (see `notes.parts_of`)."""
        return (self.chunk * 16 + self.channel) * 128 + self.program


def gather_tracks(
    midi: MidiFile, sounded: NDArray[np.void], known: Sequence[Track] = ()
) -> tuple[Track, ...]:
    """Gather a file's notes (SOUNDED) into tracks, ordered by MTrk, channel and first note.

    The tracks `known` from before an edit come first and stay, even without notes. An MTrk whose
    only channel is set to an instrument, and has no notes there or elsewhere, is a track too: one
    that waits for its notes.
    """
    parts = parts_of(sounded)
    found, first_note = np.unique(parts, return_index=True)
    # The sounded notes are sorted by MTrk, channel and onset.
    fresh: list[int] = found[np.argsort(first_note)].tolist()
    if known:
        ordered = [track.part for track in known]
        ordered += [part for part in fresh if part not in ordered]
    else:
        ordered = sorted(fresh + _waiting(midi, fresh), key=lambda part: part >> 7)
    names = {track.part: track.name for track in known}
    names = _names(midi, ordered) | names
    bounds = np.argsort(parts, kind="stable")
    sorted_parts = parts[bounds]
    tracks = []
    for part in ordered:
        a, b = np.searchsorted(sorted_parts, [part, part + 1])
        here = sounded[bounds[a:b]]
        notes = np.zeros(len(here), NOTE)
        for column in ("onset", "duration", "pitch", "velocity"):
            notes[column] = here[column]
        notes.flags.writeable = False
        channel = part >> 7 & 15
        is_drum = channel == DRUM_CHANNEL
        tracks.append(Track(names[part], part & 127, is_drum, channel, part >> 11, notes))
    return tuple(tracks)


def _waiting(midi: MidiFile, parts: Sequence[int]) -> list[int]:
    """Return the parts of MTrks that set an instrument for their one channel and have no notes.

    Not so program 0 and the drum channel: MTrks that hold nothing but credits are set to those.
    """
    sounding_chunks = {part >> 11 for part in parts}
    sounding_channels = {part >> 7 & 15 for part in parts}
    status = midi.events["status"]
    changes = np.flatnonzero((status & 0xF0) == 0xC0)
    waiting: dict[int, int] = {}
    for change in changes.tolist():
        chunk, channel = int(midi.events["chunk"][change]), int(status[change] & 15)
        program = int(midi.events["data1"][change])
        if chunk in sounding_chunks or program == 0 or channel == DRUM_CHANNEL:
            continue
        if channel in sounding_channels and midi.format != 2:
            continue
        span = midi.chunks[chunk]
        own = status[span.first_event : span.end_event]
        if (own[own < 0xF0] & 15 == channel).all():
            waiting.setdefault(chunk, (chunk * 16 + channel) * 128 + program)
    return list(waiting.values())


def _names(midi: MidiFile, parts: Sequence[int]) -> dict[int, str]:
    """Name the parts: by their MTrk's name, by their instrument, or by both where it takes both."""
    titles = _titles(midi)
    per_chunk = Counter(part >> 11 for part in parts)
    per_instrument = Counter((part >> 11, _instrument(part)) for part in parts)
    names = {}
    for part in parts:
        chunk, instrument = part >> 11, _instrument(part)
        title = titles.get(chunk, "")
        if per_instrument[chunk, instrument] > 1:
            instrument += f" on channel {(part >> 7 & 15) + 1}"
        if per_chunk[chunk] == 1:
            names[part] = title or instrument
        elif title and midi.format != 0:  # in format 0 the title is that of the song
            names[part] = f"{title} ({instrument})"
        else:
            names[part] = instrument
    return names


def _instrument(part: int) -> str:
    return instrument_name(part & 127, is_drum=part >> 7 & 15 == DRUM_CHANNEL)


def _titles(midi: MidiFile) -> dict[int, str]:
    """Return the first name of each MTrk that has one."""
    titles: dict[int, str] = {}
    is_name = (midi.events["status"] == META) & (midi.events["data1"] == META_NAME)
    for event in np.flatnonzero(is_name).tolist():
        chunk = int(midi.events["chunk"][event])
        if not titles.get(chunk):
            titles[chunk] = _text(midi.meta_payload(event))
    return titles


def _text(payload: bytes) -> str:
    """Decode a text of unknown encoding into one printable line."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        text = payload.decode("latin-1")
    printable = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(printable.split())
