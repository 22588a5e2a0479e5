"""Folders of MIDI files → how many come back byte for byte, and why others cannot be read.

    python benchmarks/roundtrip.py FOLDER...

For each file: read and write (identical bytes); spell every event anew from its decoded tick and
status (identical but for delta times that the file spells longer than need be); read it as a song.
A file that strict reading refuses is repaired, read again, and put under its reason.
"""

import re
import sys
import time
from collections import Counter
from pathlib import Path

from anser.errors import MidiError
from anser.midi import MidiFile
from anser.midi_edit import spell_varlen
from anser.song import Song

SUFFIXES = (".mid", ".midi", ".kar")


def respelled(midi: MidiFile) -> tuple[bytes, int]:
    """Return the file spelled anew from its events, and how many delta times took longer ones."""
    data, pieces, at, n_long = midi.data, [], 0, 0
    for number, chunk in enumerate(midi.chunks):
        pieces.append(data[at : chunk.body])
        tick_before = running = 0
        at = chunk.body
        for tick, start, spelled, end, _, status, _, _ in midi.chunk_events(number).tolist():
            assert start == at, "events leave a gap"
            delta = spell_varlen(tick - tick_before)
            if len(delta) < spelled - start:
                n_long += 1
                delta = data[start:spelled]
            left_out = data[spelled] < 0x80
            assert not left_out or status == running, "wrong running status"
            if status < 0xF0:
                running = status
            explicit = b"" if left_out else bytes([status])
            pieces += [delta, explicit, data[spelled + (not left_out) : end]]
            tick_before, at = tick, end
        pieces.append(data[at : chunk.end])
        at = chunk.end
    return b"".join([*pieces, data[at:]]), n_long


def main(folders: list[str]) -> int:
    """Print the counts; exit 1 if any file that could be read did not come back."""
    count: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    lost, example = [], {}
    seconds = 0.0
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*"))]
    for path in paths:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        data = path.read_bytes()
        count["files"] += 1
        count["bytes"] += len(data)
        started = time.perf_counter()
        try:
            song = Song.from_bytes(data, path.name)
        except MidiError as error:
            reason = re.sub(r"b'.*?'|0x[0-9A-F]+|\d+", "N", str(error).removeprefix(path.name))
            reasons[reason] += 1
            example.setdefault(reason, str(error))
            count["refused"] += 1
            try:
                song = Song.from_bytes(data, path.name, repair=True)
                count["repaired"] += 1
                count["repaired, with notes"] += any(len(track.notes) for track in song.tracks)
            except MidiError:
                count["beyond repair"] += 1
            continue
        seconds += time.perf_counter() - started
        spelled, n_long = respelled(song.midi)
        count["read"] += 1
        count["identical"] += song.to_bytes() == data
        count["identical when spelled anew"] += spelled == data
        count["with long delta times"] += n_long > 0
        count["notes"] += sum(len(track.notes) for track in song.tracks)
        if song.to_bytes() != data or spelled != data:
            lost.append(str(path))
    for what, n in count.items():
        print(f"{n:12,}  {what}")
    print(f"{seconds:12.1f}  seconds reading songs")
    for reason, n in reasons.most_common():
        print(f"{n:12,}  {reason}\n{'':14}{example[reason]}")
    print(*lost, sep="\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
