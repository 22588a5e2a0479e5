"""What can be asked of an answer, as a musician types it; the one place where wishes are declared.

The command line makes its options of these declarations, Python takes the same words. Reading them
is `bind`'s part. Imports nothing heavy, for every `--help` loads this.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from anser.errors import ControlError

CELLS: Final = "Which cells"
SOUND: Final = "How it may sound"
ASK: Final = "Ask for (the model tries); each [TRACK=][BARS:]VALUE"
INSIST: Final = "Insist on (always kept); each [TRACK=][BARS:]VALUE"
RUN: Final = "Run"

Words = tuple[str, ...]  # each [TRACK=][BARS:]VALUE


@dataclass(frozen=True)
class Option:
    """How a wish is shown in a terminal; its flag is its name unless `flags` say otherwise."""

    help: str
    metavar: str | None
    panel: str
    flags: tuple[str, ...] = ()


def _asks(metavar: str, text: str) -> Option:
    return Option(text, metavar, ASK)


def _insists(metavar: str, text: str) -> Option:
    return Option(text, metavar, INSIST)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked of an answer, beside the song, the cells, and where it is to go."""

    density: Annotated[
        Words, _asks("N", "Notes a bar: --density 8, --density bass=4, --density 9-10:2.")
    ] = ()
    polyphony: Annotated[
        Words, _asks("N|A-B", "Notes that sound at each onset: --polyphony 1-3.")
    ] = ()
    lengths: Annotated[Words, _asks("1/N,…", "The note lengths there are: --lengths 1/8,1/4.")] = ()
    register: Annotated[
        Words, _asks("PITCH", "The mean pitch, middle C is C4: --register bass=E2.")
    ] = ()
    span: Annotated[
        Words, _asks("N", "Semitones from the lowest to the highest pitch: --span 12.")
    ] = ()
    pitch_classes: Annotated[
        Words, _asks("C Eb G", 'The pitch classes there are: --pitch-classes "C Eb G".')
    ] = ()
    silence: Annotated[Words, _asks("SHARE", "How much of a bar is silent: --silence 0.5.")] = ()
    loudness: Annotated[
        Words, _asks("VELOCITY", "Mean velocity, 1 to 127, or pp to ff: --loudness mf.")
    ] = ()
    subdivision: Annotated[
        Words, _asks("1/N", "The grid the notes are felt on: --subdivision 1/8t.")
    ] = ()
    syncopation: Annotated[
        Words, _asks("SHARE", "Notes off the beat, held over the next: --syncopation .5.")
    ] = ()
    chords: Annotated[
        Words, _asks("Am F | C", 'A chord a bar, or several: --chords "Am F | C G".')
    ] = ()
    like: Annotated[
        Words, _asks("BAR[@SHARE]", "Like a bar, or what stood there: --like 5, --like same@0.7.")
    ] = ()
    program: Annotated[
        Words,
        _asks(
            "N", "As for this General MIDI instrument, 0 to 127: --program 2=33. The sound stays."
        ),
    ] = ()

    scale: Annotated[
        Words, _insists("D dorian", 'Only these pitches (drums are free): --scale "D dorian".')
    ] = ()
    range: Annotated[Words, _insists("C2-C4", "Lowest and highest pitch: --range bass=E1-G3.")] = ()
    max_polyphony: Annotated[
        Words, _insists("N", "Notes of a track at once, at most: --max-polyphony 1.")
    ] = ()
    grid: Annotated[
        Words, _insists("1/N", "Where notes may begin: --grid 1/16, or 1/8t for triplets.")
    ] = ()
    keep: Annotated[
        Words, _insists("rhythm|pitch", "Keep that of what stands there: --keep rhythm.")
    ] = ()
    notes: Annotated[
        Words, _insists("N|A-B", "Notes in each bar: --notes 4, --notes bass=2-6.")
    ] = ()
    no_repeat: Annotated[
        Words, _insists("N", "No N notes in a row as in other bars: --no-repeat 4.")
    ] = ()
    lock: Annotated[
        Words, _insists("WHAT", 'Notes that stay: --lock 36+38, --lock "bass=9:beat 1".')
    ] = ()
    beats: Annotated[
        Words, _insists("A-B", "Write in these beats of a bar only: --beats 3-4.")
    ] = ()
    within_bar: Annotated[bool, Option("No note sounds across the bar line.", None, INSIST)] = False
    unlike: Annotated[
        tuple[Path, ...],
        Option("An earlier take that --no-repeat heeds too: --unlike out.mid.", "FILE", INSIST),
    ] = ()

    loosely: Annotated[
        bool,
        Option("Density and polyphony are wishes too, not held to wherever notes can.", None, ASK),
    ] = False

    temperature: Annotated[
        float | None,
        Option("Below 1 safer, above 1 wilder; 0 is always the likeliest. Say 0.9.", "X", SOUND),
    ] = None
    top_p: Annotated[
        float | None,
        Option("Choose among the likeliest that hold this share of chance. Say 0.95.", "X", SOUND),
    ] = None
    min_p: Annotated[
        float | None,
        Option(
            "Leave out what is less likely than this share of the likeliest. Say 0.05.", "X", SOUND
        ),
    ] = None

    strength: Annotated[
        float | None,
        Option(
            "How strongly what is asked for counts, from 1; 2 is strong and takes up to twice "
            "the time.",
            "X",
            SOUND,
        ),
    ] = None

    takes: Annotated[int, Option("How many answers, 1 to 64.", "N", RUN)] = 1
    seed: Annotated[int, Option("Equal seeds give equal answers; try another.", "K", RUN)] = 0
    apart: Annotated[
        float,
        Option(
            "Takes of a call are never the same if it can be; at .5 half of the notes differ.",
            "SHARE",
            RUN,
        ),
    ] = 0.0
    avoid: Annotated[
        tuple[Path, ...],
        Option("An earlier take to differ from as well: --avoid out.take.json.", "FILE", RUN),
    ] = ()
    save_takes: Annotated[
        bool, Option("Keep each take beside its MIDI file, for anser apply.", None, RUN)
    ] = False
    model: Annotated[
        str | None,
        Option("A packaged model or a checkpoint, by default the packaged one.", "NAME|FILE", RUN),
    ] = None
    threads: Annotated[
        int | None, Option("CPU threads, by default the physical cores up to 4.", "N", RUN)
    ] = None

    @classmethod
    def of(cls, **words: object) -> "Wishes":
        """Return wishes by their names: a word or a number each, or several in a list."""
        declared = cls.__dataclass_fields__
        if unknown := sorted(set(words) - set(declared)):
            raise ControlError(
                f"{unknown[0]}: expected one of {', '.join(declared)}, found another word."
            )
        lists: dict[str, tuple[object, ...]] = {}
        for name, given in words.items():
            if declared[name].default == ():
                read = Path if name in ("unlike", "avoid") else str
                several = given if isinstance(given, (list, tuple)) else (given,)
                lists[name] = tuple(read(str(value)) for value in several)
        return cls(**{**words, **lists})  # type: ignore[arg-type]  # what stands there is read later
