"""Rules → what they settle, so that the model is told and plans for it.

Only the number of notes is told. It is worth 0.1 to 0.2 nats a note on held-out bars; to tell the
rest of a kept rhythm, a limit of voices or a grid was worth nothing, or cost (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from anser.codec import Encoded
from anser.controls import NO_CONTROLS, Controls
from anser.prompt import Cell
from anser.rules import Rules


def told(
    song: Encoded, asked: Mapping[Cell, Controls], rules: Mapping[Cell, Rules]
) -> dict[Cell, Controls]:
    """Return what is asked, and the densities that rules settle where none is asked."""
    result = dict(asked)
    for cell, known in rules.items():
        wish = result.get(cell, NO_CONTROLS)
        n_notes = None
        if known.keep is not None:
            n_notes = int(song.n_notes[cell])
        elif known.notes is not None and known.notes[0] == known.notes[1]:
            n_notes = known.notes[0]
        if n_notes is not None and wish.density is None:
            result[cell] = replace(wish, density=n_notes)
    return result
