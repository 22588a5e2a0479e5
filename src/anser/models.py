"""Name or path → a model ready to answer.

Knows where checkpoints lie and that model and vocabulary must fit each other; the flow is `infill`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import numpy as np

from anser import vocab
from anser.apart import takes_apart
from anser.bind import WORDS, bind_controls, bind_rules, earlier_takes
from anser.controls import NO_CONTROLS, Controls
from anser.errors import CheckpointError, ControlError
from anser.infill import Decided, Request, Take, infill, same_for_all, stream
from anser.prompt import Cell
from anser.rank import best_first
from anser.rules import NO_RULES, Rules
from anser.rwkv7 import checkpoint
from anser.rwkv7.checkpoint import Tensors
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import Song
from anser.vary import varied
from anser.wishes import Wishes

DEFAULT: Final = "anser-2"
SUFFIX: Final = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A trained model: weights in an engine, and what its file says of them."""

    name: str
    engine: Engine
    metadata: dict[str, str] = field(repr=False)
    prefixes: PrefixCache = field(repr=False)  # so that another seed reads nothing again
    tensors: Tensors = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights: names, types, shapes and values."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            found.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
            found.update(np.ascontiguousarray(tensor).data)
        return found.hexdigest()

    def infill(
        self,
        song: Song,
        selection: Selection | str,
        *,
        takes: int = 1,
        seed: int = 0,
        controls: Controls | Mapping[Cell, Controls] = NO_CONTROLS,
        rules: Rules | Mapping[Cell, Rules] = NO_RULES,
        sampling: Sampling = Sampling(),
        **words: object,
    ) -> list[Take]:
        """Write the selected cells anew, `takes` times; nothing else in the song changes.

        The best take comes first. `selection` may be spelled as musicians do:
        `"bass:9-12, drums:9-16"`. `words` are controls and rules as the command line names and
        reads them, one or a list: `density=6, scale="D dorian", chords="Am F | C G",
        range=["C2-C4", "bass=E1-G3"]`. In place of them, `controls` and `rules` are for every cell,
        or for the cells (track, bar) that they name. Equal arguments give equal bytes. Raises
        `SelectionError` or `ControlError` when the request does not fit the song, and `RuleError`,
        before anything is written, when the rules allow no music.
        """
        request = _request(song, selection, controls, rules, words)
        request = replace(request, takes=takes, seed=seed, sampling=sampling)
        return best_first(takes_apart(self._write, request))

    def vary(
        self,
        song: Song,
        selection: Selection | str,
        amount: float = 0.5,
        *,
        takes: int = 1,
        seed: int = 0,
        sampling: Sampling = Sampling(),
        **words: object,
    ) -> list[Take]:
        """Write variations of what stands in the selected cells, the best first.

        `amount` is the share of each cell's notes that is written anew: 0 leaves all as it is, 1 is
        free. `words` are as for `infill`. Raises as `infill` does, and `ControlError` for another
        amount.
        """
        request = _request(song, selection, NO_CONTROLS, NO_RULES, words)
        request = replace(request, takes=takes, seed=seed, sampling=sampling)
        return best_first(takes_apart(partial(varied, self._write, amount=amount), request))

    def _write(self, request: Request) -> list[Take]:
        return infill(self.engine, request, prefixes=self.prefixes)

    def stream(
        self,
        song: Song,
        selection: Selection | str,
        *,
        seed: int = 0,
        controls: Controls | Mapping[Cell, Controls] = NO_CONTROLS,
        rules: Rules | Mapping[Cell, Rules] = NO_RULES,
        sampling: Sampling = Sampling(),
        **words: object,
    ) -> Iterator[Decided]:
        """Yield the notes of one take in musical time, as they are decided; see `infill`."""
        request = _request(song, selection, controls, rules, words)
        request = replace(request, seed=seed, sampling=sampling)
        return stream(self.engine, request, self.prefixes)


def _request(
    song: Song,
    selection: Selection | str,
    controls: Controls | Mapping[Cell, Controls],
    rules: Rules | Mapping[Cell, Rules],
    words: Mapping[str, object],
) -> Request:
    cells = Selection.parse(selection, song) if isinstance(selection, str) else selection
    wishes = Wishes.of(**words)
    if wishes != replace(Wishes(), **{name: getattr(wishes, name) for name in WORDS}):
        raise ControlError(f"words: expected some of {', '.join(WORDS)}, found {', '.join(words)}.")
    asked = bind_controls(song, cells, wishes)
    bound = bind_rules(song, cells, wishes)
    if controls != NO_CONTROLS:
        asked |= same_for_all(cells, controls) if isinstance(controls, Controls) else controls
    if rules != NO_RULES:
        bound |= dict.fromkeys(cells.cells, rules) if isinstance(rules, Rules) else rules
    return Request(song, cells, asked, bound, earlier_takes(song, wishes))


def packaged() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(
        entry.name.removesuffix(SUFFIX)
        for entry in files("anser.data").iterdir()
        if entry.name.endswith(SUFFIX)
    )


def load(name: str | Path = DEFAULT, *, threads: int | None = None) -> Model:
    """Open a model by the name of a packaged one, or by the path of a checkpoint.

    `threads` is the number of CPU threads, by default those of the machine up to four. Raises
    `CheckpointError` when there is no such model, or the file is none of Anser's.
    """
    path = Path(name)
    if path.suffix != SUFFIX and not path.exists():
        if str(name) not in packaged():
            known = ", ".join(packaged())
            raise CheckpointError(f"model {name}: expected one of {known}, or a checkpoint's path.")
        with as_file(files("anser.data") / f"{name}{SUFFIX}") as packaged_path:
            return _open(packaged_path, str(name), threads)
    return _open(path, path.stem, threads)


def _open(path: Path, name: str, threads: int | None) -> Model:
    opened = checkpoint.load(path)
    found = opened.metadata.get("vocab")
    if found is None:
        raise CheckpointError(
            f"{path}: expected a model of Anser's, found weights without a vocab."
        )
    if found != vocab.fingerprint():
        raise CheckpointError(
            f"{path}: expected the vocab of this version of Anser, found another. "
            "Use the version of Anser that the model was made with."
        )
    engine = Engine(opened, threads=threads)
    return Model(name, engine, opened.metadata, PrefixCache(engine), opened.tensors)
