"""Raw events → notes: pairs note-ons with note-offs, and tells which program sounds.

A note-off ends the oldest open note of its pitch in the same MTrk and channel; one that ends
nothing is passed over; a note never ended lasts to its MTrk's end-of-track.
"""

import numpy as np
from numpy.typing import NDArray

from anser.midi import MidiFile

NOTE = np.dtype([("onset", "<i8"), ("duration", "<i8"), ("pitch", "<i2"), ("velocity", "<i2")])

# A note with where it comes from: `on` and `off` index MidiFile.events, off = -1 if never ended.
SOUNDED = np.dtype(
    [
        ("onset", "<i8"),
        ("duration", "<i8"),
        ("pitch", "<i2"),
        ("velocity", "<i2"),
        ("chunk", "<i4"),
        ("channel", "<i2"),
        ("program", "<i2"),
        ("on", "<i4"),
        ("off", "<i4"),
    ]
)


def parts_of(notes: NDArray[np.void]) -> NDArray[np.int64]:
    """Return one number for the MTrk, channel and program of each note (SOUNDED)."""
    parts = (notes["chunk"].astype(np.int64) * 16 + notes["channel"]) * 128 + notes["program"]
    return np.asarray(parts, np.int64)


def sounded_notes(midi: MidiFile) -> NDArray[np.void]:
    """Return all notes of a file (SOUNDED), sorted by (chunk, channel, onset, pitch)."""
    events = midi.events
    kind = events["status"] & 0xF0
    indices = np.flatnonzero((kind == 0x80) | (kind == 0x90))
    keyed = events[indices]
    is_on = ((keyed["status"] & 0xF0) == 0x90) & (keyed["data2"] > 0)
    channel = (keyed["status"] & 0x0F).astype(np.int64)
    key = (keyed["chunk"].astype(np.int64) * 16 + channel) * 128 + keyed["data1"]
    on, off = _pair(key, is_on)

    notes = np.zeros(len(on), SOUNDED)
    started = keyed[on]
    notes["onset"] = started["tick"]
    end_of_track = np.array([chunk.end_event - 1 for chunk in midi.chunks])
    ending = np.where(off >= 0, indices[off], end_of_track[started["chunk"]])
    notes["duration"] = events["tick"][ending] - started["tick"]
    notes["pitch"] = started["data1"]
    notes["velocity"] = started["data2"]
    notes["chunk"] = started["chunk"]
    notes["channel"] = started["status"] & 0x0F
    notes["on"] = indices[on]
    notes["off"] = np.where(off >= 0, indices[off], -1)
    notes["program"] = _programs(midi, notes)
    order = np.lexsort((notes["pitch"], notes["onset"], notes["channel"], notes["chunk"]))
    return notes[order]


def stray_offs(midi: MidiFile, notes: NDArray[np.void]) -> list[tuple[int, int, int, int]]:
    """Return tick, MTrk, channel and pitch of the note-offs that end none of a file's notes."""
    kind = midi.events["status"] & 0xF0
    is_off = (kind == 0x80) | (kind == 0x90) & (midi.events["data2"] == 0)
    is_off[notes["off"][notes["off"] >= 0]] = False
    strays = midi.events[is_off]
    strays = strays[np.argsort(strays["tick"], kind="stable")]
    columns = (strays["tick"], strays["chunk"], strays["status"] & 0x0F, strays["data1"])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _pair(key: NDArray[np.int64], is_on: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
    """Return the positions of note-ons, and of the note-off of each (-1: none), first in first out.

    The number of open notes of a key, if it were let fall below zero, makes a new lowest value
    exactly at the note-offs that end nothing; without those, the k-th on belongs to the k-th off.
    """
    order = np.argsort(key, kind="stable")
    key, is_on = key[order], is_on[order]
    if len(key) == 0:
        return order, order
    new_key = np.concatenate([[True], key[1:] != key[:-1]])
    group = np.cumsum(new_key) - 1
    first = np.flatnonzero(new_key)
    step = np.where(is_on, 1, -1)
    total = np.cumsum(step)
    open_notes = total - (total - step)[first][group]
    # Each group lies far below the one before, so one running minimum serves all of them.
    apart = group * (2 * len(key) + 2)
    lowest = np.minimum(np.minimum.accumulate(open_notes - apart) + apart, 0)
    lowest_before = np.concatenate([[0], lowest[:-1]])
    lowest_before[first] = 0
    ends_one = ~is_on & (lowest == lowest_before)

    on, off = np.flatnonzero(is_on), np.flatnonzero(ends_one)
    n_groups = len(first)
    first_on = np.searchsorted(group[on], np.arange(n_groups))
    rank = np.arange(len(on)) - first_on[group[on]]
    first_off = np.searchsorted(group[off], np.arange(n_groups + 1))
    n_off = np.diff(first_off)[group[on]]
    partner = np.full(len(on), -1, np.intp)
    has_off = rank < n_off
    partner[has_off] = order[off[(first_off[group[on]] + rank)[has_off]]]
    return order[on], partner


def _programs(midi: MidiFile, notes: NDArray[np.void]) -> NDArray[np.int64]:
    """Return each note's program: the last change on its channel up to its tick, 0 before any.

    An MTrk with changes of its own on a channel heeds only those; one without hears those of the
    other MTrks, as a device does, unless the file is a collection of songs (format 2).
    """
    events = midi.events
    changes = events[(events["status"] & 0xF0) == 0xC0]
    changes = changes[np.argsort(changes["tick"], kind="stable")]
    change_channel = changes["status"] & 0x0F
    programs = np.zeros(len(notes), np.int64)
    source = notes["chunk"].astype(np.int64) * 16 + notes["channel"]
    for part in np.unique(source).tolist():
        chunk, channel = divmod(part, 16)
        on_channel = change_channel == channel
        own = on_channel & (changes["chunk"] == chunk)
        heeded = changes[own if own.any() or midi.format == 2 else on_channel]
        if len(heeded):
            here = source == part
            place = np.searchsorted(heeded["tick"], notes["onset"][here], "right")
            programs[here] = np.where(place > 0, heeded["data1"][np.maximum(place - 1, 0)], 0)
    return programs
