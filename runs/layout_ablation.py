"""Train two small models that differ in the layout of their prompts only, and print both losses.

`anser` is the layout of `anser.prompt`: rotated, with replay. `mmm` is the layout of the published
systems: track after track with a mark in each hole, answers at the end. Same examples, same answer
ids, same steps and seed; the loss is nats per note of the answers on the valid split.

    python runs/layout_ablation.py SHARDS --layout anser --steps 1200
"""

import argparse
from pathlib import Path

import numpy as np

from anser import prompt, vocab
from anser.codec import Encoded
from anser.controls import NO_CONTROLS
from anser.selection import Selection
from anser.train.config import TrainConfig
from anser.train.examples import Example, Request, spell
from anser.train.loop import Run, train


def spell_mmm(song: Encoded, selection: Selection, request: Request) -> Example:
    """Lay the same window out track after track, with the answers at the end."""
    rotated = prompt.make(song, selection, request.controls, request.window)
    parts = [[vocab.SONG, vocab.tempo_token(float(song.tempos[selection.bars[0]]))]]
    for place, track in enumerate(rotated.tracks):
        parts.append([vocab.TRACK + place, vocab.PROGRAM + int(song.programs[track])])
        meter = None
        for bar in rotated.bars:
            found = int(song.numerators[bar]), int(song.denominators[bar])
            spelled = vocab.meter_tokens(*found) if found != meter else ()
            parts.append([vocab.BAR, *spelled])
            meter = found
            is_hole = (track, bar) in selection.cells
            parts.append([vocab.FILL] if is_hole else song.cell(track, bar))
    is_answer = [np.zeros(len(part), dtype=bool) for part in parts]
    for segment in rotated.segments:
        wish = request.controls.get(segment.cell, NO_CONTROLS)
        place = rotated.tracks.index(segment.cell[0])
        program = vocab.PROGRAM + int(song.programs[segment.cell[0]])
        parts.append([vocab.ANSWER, vocab.TRACK + place, program, *wish.spell()])
        is_answer.append(np.zeros(len(parts[-1]), dtype=bool))
        parts.append([*song.cell(*segment.cell), vocab.END])
        is_answer.append(np.ones(len(parts[-1]), dtype=bool))
    ids = np.concatenate([np.asarray(part, dtype=np.uint16) for part in parts])
    return Example(ids, np.concatenate(is_answer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--layout", choices=["anser", "mmm"], required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--size", default="small")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--context-weight", type=float, default=1.0)
    parser.add_argument("--ids-per-step", type=int, default=65_536)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    config = TrainConfig.of_size(
        given.size,
        steps=given.steps,
        seed=given.seed,
        context_weight=given.context_weight,
        ids_per_step=given.ids_per_step,
    )
    layout = spell if given.layout == "anser" else spell_mmm
    loss = train(
        config, Run(given.shards, given.output, given.device, given.workers, layout=layout)
    )
    print(f"layout {given.layout} seed {given.seed}: {loss:.4f} nats a note")


if __name__ == "__main__":
    main()
