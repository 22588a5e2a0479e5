"""What rules settle is told to the model."""

from anser import codec, vocab
from anser.controls import Controls
from anser.implied import told
from anser.infill import Request, infill
from anser.rules import Rules
from anser.selection import Selection
from fakes import FakeEngine
from songs import band

SONG = band()
ENCODED = codec.encode(SONG)
CELL = (0, 4)
N_NOTES = int(ENCODED.n_notes[CELL])


def density(asked, rules):
    wish = told(ENCODED, asked, {CELL: rules}).get(CELL)
    return None if wish is None else wish.density


def test_a_number_of_notes_that_rules_settle_is_told():
    assert density({}, Rules(notes=(3, 3))) == 3
    assert density({}, Rules(keep="rhythm")) == density({}, Rules(keep="pitch")) == N_NOTES
    assert density({}, Rules(notes=(3, 5))) is None
    assert density({}, Rules(max_polyphony=1, grid=6)) is None


def test_what_is_asked_goes_first():
    asked = {CELL: Controls(density=7, most=2)}
    assert told(ENCODED, asked, {CELL: Rules(notes=(3, 3))}) == asked
    asked = {CELL: Controls(most=2)}
    assert told(ENCODED, asked, {CELL: Rules(notes=(3, 3))})[CELL] == Controls(most=2, density=3)


def test_the_prompt_says_it_and_the_report_does_not():
    engine = FakeEngine()
    request = Request(SONG, Selection.of([0], [4]), rules={CELL: Rules(notes=(3, 3))})
    take = infill(engine, request)[0]
    read = [row[0] for row in engine.read]
    assert read[read.index(vocab.ANSWER) + 3] == vocab.density_token(3)
    assert take.cells[0].asked == Controls()
    assert take.n_notes == 3
