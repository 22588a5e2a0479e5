"""The tree of errors that Anser raises for wrong input; anything else is a bug of ours.

* AnserError
    x MidiError         the file is not MIDI, or damaged              (byte offset, MIDI track)
    x SelectionError    the selection does not fit the song           (track, bars, what exists)
    x ControlError      a control the model does not know, or a value out of range
    x RuleError         the rules allow no music                      (the pair that contradicts)
    x TakeError         the file of a take is damaged, or does not fit the song
    x CheckpointError   weights unusable                              (tensor, expected, found)
    x GenerationError   the model could not finish the bars           (how far, what to try)

Messages follow one formula: *where: expected, found. remedy.*
"""


class AnserError(Exception):
    """Base of every error caused by input; the message is one line meant for the user."""


class MidiError(AnserError, ValueError):
    """The bytes are not a Standard MIDI File, or a damaged one."""


class SelectionError(AnserError, ValueError):
    """The selection does not fit the song."""


class ControlError(AnserError, ValueError):
    """A control is unknown to the model, or its value is out of range."""


class RuleError(AnserError, ValueError):
    """The rules contradict each other: no music satisfies them."""


class TakeError(AnserError, ValueError):
    """The file is no take of this version, is damaged, or does not fit the song."""


class CheckpointError(AnserError, ValueError):
    """The weights file is missing, damaged, or of another kind."""


class GenerationError(AnserError, RuntimeError):
    """The model could not finish the selection."""
