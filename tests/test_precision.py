import numpy as np
import pytest

from anser import codec, prompt
from anser.evaluate import precision
from anser.evaluate.heldout import Heldout
from anser.rwkv7 import checkpoint
from anser.selection import Selection
from songs import band
from tiny_model import write_model


@pytest.fixture
def examples():
    made = []
    for seed in range(3):
        song = codec.encode(band(6, seed))
        cells = Selection.of([seed % 2], range(2, 4))
        n_notes = int(sum(song.n_notes[cell] for cell in cells.cells))
        shown = prompt.make(song, cells)
        made.append(Heldout(song, seed, shown, shown, n_notes))
    return made


def test_all_precisions_are_scored_on_the_same_examples(tmp_path, examples, capsys):
    trained = checkpoint.load(write_model(tmp_path / "tiny.safetensors"))
    scores = {name: precision.score(trained, name, examples) for name in precision.PRECISIONS}
    capsys.readouterr()
    assert list(scores) == ["fp32", "fp16", "int8", "int4"]
    rows = precision.compare(scores, examples)
    assert rows["fp32"]["lost_percent"] == 0
    assert abs(rows["fp16"]["lost_percent"]) < 0.1
    assert abs(rows["int8"]["lost_percent"]) < 2
    np.testing.assert_allclose(scores["fp16"], scores["fp32"], rtol=1e-3)


def test_what_is_lost_is_a_share_of_the_first(examples):
    first = [10.0 * e.n_notes for e in examples]
    worse = [10.1 * e.n_notes for e in examples]
    row = precision.compare({"fp32": first, "int8": worse}, examples)["int8"]
    assert row == {"nats_per_note": 10.1, "lost_percent": 1.0, "standard_error_percent": 0.0}
