"""Anser: you leave bars of a MIDI file empty, it answers.

The contents page of the public names; each is imported when it is first used, so that the command
line starts fast.

    song = anser.Song.read("song.mid")
    takes = anser.load().infill(song, "bass:9-12", takes=4)
    takes[0].song.write("out.mid")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anser.controls import Controls
    from anser.errors import (
        AnserError,
        CheckpointError,
        ControlError,
        MidiError,
        SelectionError,
    )
    from anser.infill import Decided, Take
    from anser.models import Model, load
    from anser.rules import Rules
    from anser.sampling import Sampling
    from anser.selection import Selection
    from anser.song import Song
    from anser.verify import differences

__all__ = [
    "AnserError",
    "CheckpointError",
    "ControlError",
    "Controls",
    "Decided",
    "MidiError",
    "Model",
    "Rules",
    "Sampling",
    "Selection",
    "SelectionError",
    "Song",
    "Take",
    "differences",
    "load",
]

_HOMES = {
    "controls": ("Controls",),
    "errors": ("AnserError", "CheckpointError", "ControlError", "MidiError", "SelectionError"),
    "infill": ("Decided", "Take"),
    "models": ("Model", "load"),
    "rules": ("Rules",),
    "sampling": ("Sampling",),
    "selection": ("Selection",),
    "song": ("Song",),
    "verify": ("differences",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever the name stands for
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"anser.{module}"), name)
    raise AttributeError(f"module 'anser' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
