"""What a command is given, files and folders → MIDI files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def midi_files(given: Iterable[Path]) -> list[Path]:
    """Return the files that are named, and the `.mid` files below the folders, sorted."""
    return sorted(p for s in given for p in (s.rglob("*.mid") if s.is_dir() else [s]))
