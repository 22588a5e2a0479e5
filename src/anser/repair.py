"""Damaged bytes → bytes of a sound MIDI file, and what was changed to get there.

Every event before the first damage of a track is saved as it was. What lies behind it in the same
track cannot be told from noise and is dropped, unless clipping data bytes to 127 makes all of it
readable. The next track is found by its name, MTrk.
"""

from dataclasses import dataclass, field

from anser.errors import MidiError
from anser.midi import (
    DATA_BYTES,
    META,
    META_END,
    chunk_end,
    division_is_sound,
    read,
    read_event,
    read_varlen,
)

END_OF_TRACK = bytes([0, META, META_END, 0])
DEFAULT_DIVISION = 480


@dataclass
class _Salvage:
    """What has been saved so far."""

    data: bytearray
    pieces: list[bytes] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    n_tracks: int = 0


def repaired(data: bytes, name: str = "MIDI file") -> tuple[bytes, tuple[str, ...]]:
    """Return bytes that `midi.read` accepts, and a sentence for each change that took.

    A sound file comes back as it is, with no changes. Raises MidiError if no track can be found.
    """
    try:
        read(data, name)
    except MidiError:
        pass
    else:
        return data, ()
    salvage = _Salvage(bytearray(data))
    at = _salvage_header(salvage, name)
    while at < len(data):
        if data[at : at + 4] == b"MTrk":
            at = _salvage_track(salvage, at)
            continue
        end = chunk_end(data, at)
        if end is None:
            end = _next_track(data, at + 1)
            salvage.changes.append(f"dropped {end - at} bytes at byte {at} that are no chunk")
        else:
            salvage.pieces.append(bytes(data[at:end]))
        at = end
    if not salvage.n_tracks:
        raise MidiError(f"{name}: expected at least one track (MTrk), found none to salvage.")
    header = salvage.pieces[0]  # MThd comes first, saved or made up
    n_declared = int.from_bytes(header[10:12], "big")
    if n_declared != salvage.n_tracks:
        salvage.changes.append(f"the header declared {n_declared} tracks, found {salvage.n_tracks}")
    salvage.pieces[0] = header[:10] + salvage.n_tracks.to_bytes(2, "big") + header[12:]
    return b"".join(salvage.pieces), tuple(salvage.changes)


def _next_track(data: bytes | bytearray, at: int) -> int:
    """Return the offset of the next MTrk, or of the end of the file."""
    found = data.find(b"MTrk", at)
    return len(data) if found < 0 else found


def _salvage_header(salvage: _Salvage, name: str) -> int:
    """Save the header, or make one up; return the offset behind it."""
    data, changes = salvage.data, salvage.changes
    start = data.find(b"MThd")
    first_track = _next_track(data, 0)
    if first_track == len(data) or len(data) - first_track < 8:
        raise MidiError(f"{name}: expected at least one track (MTrk), found none to salvage.")
    if start < 0 or start > first_track or first_track - start < 14:
        changes.append(f"made up a header: format 1, {DEFAULT_DIVISION} ticks a quarter")
        salvage.pieces.append(_header(1, DEFAULT_DIVISION))
        return first_track
    if start > 0:
        changes.append(f"dropped {start} bytes before the header")
    file_format = int.from_bytes(data[start + 8 : start + 10], "big")
    division = int.from_bytes(data[start + 12 : start + 14], "big")
    end = chunk_end(data, start)
    is_whole = end is not None and start + 14 <= end <= first_track
    if not is_whole:
        changes.append("the header had a wrong length")
    if file_format > 2:
        changes.append(f"took unknown format {file_format} for format 1")
        file_format = 1
    if not division_is_sound(division):
        changes.append(f"took division 0x{division:04X} for {DEFAULT_DIVISION} ticks a quarter")
        division = DEFAULT_DIVISION
    if not is_whole or end is None:
        salvage.pieces.append(_header(file_format, division))
        return first_track
    header = data[start:end]
    header[8:10] = file_format.to_bytes(2, "big")
    header[12:14] = division.to_bytes(2, "big")
    salvage.pieces.append(bytes(header))
    return end


def _header(file_format: int, division: int) -> bytes:
    numbers = (file_format, 0, division)
    return b"MThd\x00\x00\x00\x06" + b"".join(n.to_bytes(2, "big") for n in numbers)


def _salvage_track(salvage: _Salvage, start: int) -> int:
    """Save the events of one MTrk up to its end or its first damage; return where to go on."""
    data, body = salvage.data, start + 8
    salvage.n_tracks += 1
    where = f"track {salvage.n_tracks}"
    limit = declared = chunk_end(data, start)
    if limit is None or (limit < len(data) and chunk_end(data, limit) is None):
        # The length leads nowhere: the track's own end, or the next track, is the limit.
        limit = _next_track(data, body)
    end, problem, clipped = _walk_and_clip(data, body, limit)
    if clipped:
        salvage.changes.append(f"{where}: set {clipped} data bytes over 127 to 127")
    saved = bytes(data[body:end])
    if problem:
        salvage.changes.append(f"{where}: ended it, and dropped {limit - end} bytes: {problem}")
        saved += END_OF_TRACK
        end = limit
    elif limit == declared:
        saved += bytes(data[end:limit])
        end = limit
    elif end != declared:
        salvage.changes.append(f"{where}: corrected its length")
    salvage.pieces += [b"MTrk", len(saved).to_bytes(4, "big"), saved]
    return end


def _walk_and_clip(data: bytearray, body: int, limit: int) -> tuple[int, str, int]:
    """Return the offset behind the last sound event, what is wrong there, and the bytes clipped.

    Data bytes over 127 are set to 127 in `data` if that lets all the rest of the track be read.
    """
    at, running, problem = _walk(data, body, limit, 0)
    end, further = at, problem
    before: dict[int, int] = {}
    while further and (wrong := _wrong_data_bytes(data, end, limit, running)):
        for offset in wrong:
            before[offset] = data[offset]
            data[offset] = 127
        end, running, further = _walk(data, end, limit, running)
    if not further:
        return end, "", len(before)
    for offset, value in before.items():
        data[offset] = value
    return at, problem, 0


def _walk(data: bytearray, at: int, limit: int, running: int) -> tuple[int, int, str]:
    """Return the offset behind end-of-track, or of the first damaged event and what is wrong."""
    while at < limit:
        try:
            status, body, end = read_event(data, at, limit, running)
        except MidiError as damage:
            return at, running, str(damage)
        if status == META and data[body + 1] == META_END:
            return end, running, ""
        if status < 0xF0:
            running = status
        at = end
    return at, running, "it has no end-of-track event."


def _wrong_data_bytes(data: bytearray, start: int, limit: int, running: int) -> list[int]:
    """Return the offsets of data bytes over 127 in the channel message that begins at `start`."""
    try:
        _, at = read_varlen(data, start, limit)
    except MidiError:
        return []
    if at >= limit:
        return []
    body, status = (at + 1, data[at]) if data[at] >= 0x80 else (at, running)
    data_bytes = range(body, min(body + DATA_BYTES[status], limit))
    return [offset for offset in data_bytes if data[offset] >= 0x80]
