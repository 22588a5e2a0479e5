"""Song + selection + rules → the rooms of all cells and what stands around them, or a refusal.

Finds contradictions before anything is written: what each cell owes is planned for, one cell after
the other; later, nothing is written in the way of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from anser import room
from anser.errors import RuleError
from anser.notes import parts_of, stray_offs
from anser.room import NEVER, Cell, Room, Sounds
from anser.rules import NO_RULES, Rules, pairs
from anser.song import NOTE, Song

Sound = tuple[int, int, int]  # start, end (ticks), pitch
Key = tuple[int, int]  # (device, channel): where equal pitches cut each other
Instruments = Mapping[Cell, tuple[bool, tuple[int, int]]]  # drums or not, lowest and highest pitch


@dataclass
class Sounding:
    """The notes of one take as they are written: (start, end, pitch), by channel and by track."""

    strikes: dict[Key, list[Sound]] = field(default_factory=dict)
    own: dict[int, list[Sound]] = field(default_factory=dict)
    done: set[Cell] = field(default_factory=set)


class Ground:
    """Where the cells of a request are written: their rooms, the standing notes, the plans."""

    def __init__(
        self,
        song: Song,
        rules: Mapping[Cell, Rules],
        instruments: Instruments,
        earlier: Sequence[Song] = (),
    ) -> None:
        """Plan all cells, those that `instruments` has.

        Raises RuleError, naming the rules that contradict each other, where the plan fails.
        """
        self._song, self._earlier = song, earlier
        self._cells = sorted(instruments, key=lambda cell: (cell[1], cell[0]))
        self._instruments = instruments
        for cell in rules:
            if cell not in instruments:
                raise RuleError(f"{self._where(cell)}: expected a selected cell to bind.")
        self._repetitions: dict[tuple[int, int], room.Repetitions] = {}
        self.rooms = {cell: self._room(cell, rules.get(cell, NO_RULES)) for cell in self._cells}
        self.locked = self._locked()
        self._stand()
        self._plans: dict[Cell, Sounds] = {}
        self._reserved: dict[Key, dict[Cell, Sounds]] = {key: {} for key in self._standing}
        self._cap()
        for cell in self._cells:
            planned = self._plan(cell, self.rooms[cell])
            if planned is None:
                raise self._refusal(cell)
            self._plans[cell] = planned
            if len(planned):
                self._reserved[self._key(cell[0])][cell] = planned

    def plan(self, cell: Cell) -> Sounds:
        """Return the notes that would finish what a cell owes."""
        return self._plans[cell]

    def strikes(self, cell: Cell, sounding: Sounding | None = None) -> Sounds:
        """Return the notes in whose way no equal pitch of a cell may be.

        They are those that stand, those written, and the plans of the other cells to be written.
        """
        key = self._key(cell[0])
        done = sounding.done if sounding else ()
        plans = [
            notes
            for other, notes in self._reserved[key].items()
            if other != cell and other not in done
        ]
        written = self._heard(cell, sounding.strikes.get(key, [])) if sounding else []
        return np.concatenate([self._standing[key], room.sounds(written), *plans])

    def own(self, cell: Cell, sounding: Sounding | None = None) -> Sounds:
        """Return the notes of a cell's track that count for its polyphony."""
        written = self._heard(cell, sounding.own.get(cell[0], [])) if sounding else []
        return np.concatenate([self._own[cell[0]], room.sounds(written)])

    def _heard(self, cell: Cell, written: list[Sound]) -> list[Sound]:
        """Forget what was written and has ended before a cell; they come in musical time."""
        start = int(self._song.bars.starts[cell[1]])
        written[:] = [sound for sound in written if sound[1] > start]
        return written

    def keep(self, cell: Cell, notes: NDArray[np.void], sounding: Sounding) -> None:
        """Take note of the finished notes (NOTE) of a cell."""
        kept_rhythm = self.rooms[cell].rules.keep == "rhythm"
        timed = [(on, on + max(lasts, 1), pitch) for on, lasts, pitch, _ in notes.tolist()]
        sounding.strikes.setdefault(self._key(cell[0]), []).extend(timed)
        if not kept_rhythm:  # a rhythm that is kept counts from the beginning
            sounding.own.setdefault(cell[0], []).extend(timed)
        sounding.done.add(cell)

    def _key(self, track: int) -> Key:
        part = self._song.tracks[track]
        return (part.chunk if self._song.midi.format == 2 else 0), part.channel

    def _room(self, cell: Cell, rules: Rules) -> Room:
        made = room.make(self._song, cell, rules, self._instruments[cell])
        if rules.no_repeat is None:
            return made
        at = cell[0], rules.no_repeat
        if at not in self._repetitions:
            selected = [bar for track, bar in self._cells if track == cell[0]]
            context = sorted(set(range(self._song.n_bars)) - set(selected))
            found = room.grams(self._song, cell[0], context, rules.no_repeat)
            for song in self._earlier:
                known = [bar for bar in selected if bar < song.n_bars]
                found |= room.grams(song, cell[0], known, rules.no_repeat)
            self._repetitions[at] = room.Repetitions.of(found)
        return room.without(made, self._repetitions[at])

    def _locked(self) -> dict[int, NDArray[np.void]]:
        """Return the notes (NOTE) in selected cells that stay, by track."""
        locked: dict[int, list[tuple[int, int, int, int]]] = {}
        for cell, here in self.rooms.items():
            notes = room.staying(self._song, cell, here.rules)
            if notes:
                locked.setdefault(cell[0], []).extend(notes)
        return {track: np.array(notes, NOTE) for track, notes in locked.items()}

    def _stand(self) -> None:
        """Gather what stands on each channel, and what of each track counts for polyphony."""
        song = self._song
        sounded = song.sounded
        bars, parts = song.bars.at(sounded["onset"]), parts_of(sounded)
        ends = np.where(sounded["off"] < 0, NEVER, sounded["onset"] + sounded["duration"])
        timed = np.stack([sounded["onset"], ends, sounded["pitch"]], axis=1).astype(np.int64)
        stands = np.ones(len(sounded), dtype=bool)
        self._own: dict[int, Sounds] = {}
        for track in {track for track, _ in self._cells}:
            is_own = parts == song.tracks[track].part
            selected = [bar for other, bar in self._cells if other == track]
            gone = is_own & np.isin(bars, selected)
            for at in np.flatnonzero(gone).tolist():
                start = int(song.bars.starts[bars[at]])
                rules = self.rooms[track, int(bars[at])].rules
                beat = room.beat_of(song, int(bars[at]), int(sounded["onset"][at]) - start)
                gone[at] = not rules.stays(int(sounded["pitch"][at]), beat)
            stands &= ~gone
            rhythm = [
                (item.note[0], item.end, item.pitch)
                for cell in self._cells
                if cell[0] == track
                for item in self.rooms[cell].items
                if not item.stays
            ]
            self._own[track] = np.concatenate([timed[is_own & ~gone], room.sounds(rhythm)])
        strays = [
            ((chunk if song.midi.format == 2 else 0, channel), (tick, tick, pitch))
            for tick, chunk, channel, pitch in stray_offs(song.midi, sounded)
        ]
        device = sounded["chunk"] if song.midi.format == 2 else np.zeros_like(sounded["chunk"])
        self._standing: dict[Key, Sounds] = {}
        for key in {self._key(track) for track in self._own}:
            here = stands & (device == key[0]) & (sounded["channel"] == key[1])
            cuts = room.sounds([sound for at, sound in strays if at == key])
            self._standing[key] = np.concatenate([timed[here], cuts])

    def _cap(self) -> None:
        """Let no note sound into a later cell of its track that owes something."""
        next_due: dict[int, int] = {}
        self._due: dict[Cell, int] = {}
        for cell in reversed(self._cells):
            here = self.rooms[cell]
            self._due[cell] = next_due.get(cell[0], NEVER)
            self.rooms[cell] = replace(here, cap=min(here.cap, self._due[cell]))
            if here.owes:
                next_due[cell[0]] = int(self._song.bars.starts[cell[1]])

    def _plan(self, cell: Cell, here: Room) -> Sounds | None:
        return room.plan(here, self.strikes(cell), self.own(cell))

    def _refusal(self, cell: Cell) -> RuleError:
        """Find the rule, or the pair of rules, that leaves a cell nothing, and say so."""
        rules = self.rooms[cell].rules
        named = rules.named
        staying = tuple(name for name in ("locks", "beats") if name in named)
        culprits = tuple(named)
        for names in pairs(rules):
            if not self._allows(cell, rules.only((*names, *staying))):
                locked = () if not self._allows(cell, rules.only(names)) else staying
                culprits = tuple(dict.fromkeys((*names, *locked)))
                break
        where = self._where(cell)
        said = ", ".join(named[name] for name in culprits)
        if len(culprits) == 1:
            return RuleError(
                f"{where}: expected rules that allow music, found {said}, "
                "for which what stands around the cell leaves no room. Loosen it."
            )
        both = "both" if len(culprits) == 2 else "all"
        return RuleError(
            f"{where}: expected rules that agree, found {said}: "
            f"no notes here keep {both}. Loosen one of them."
        )

    def _allows(self, cell: Cell, rules: Rules) -> bool:
        alone = self._room(cell, rules)
        alone = replace(alone, cap=min(alone.cap, self._due[cell]))
        return self._plan(cell, alone) is not None

    def _where(self, cell: Cell) -> str:
        track, bar = cell
        name = self._song.tracks[track].name if track < len(self._song.tracks) else ""
        return f'{self._song.name}, track {track + 1} "{name}", bar {bar + 1}'
