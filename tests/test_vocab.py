import pytest

from anser import vocab


def test_names_and_ids_are_one_to_one():
    names = [vocab.name(i) for i in range(vocab.N_VOCAB)]
    assert len(set(names)) == vocab.N_VOCAB
    assert all(vocab.id_of(vocab.name(i)) == i for i in range(vocab.N_USED))


def test_names_tell_musical_values():
    assert vocab.name(vocab.PITCH + 60) == "pitch_60"
    assert vocab.name(vocab.DURATION) == "duration_1"
    assert vocab.name(vocab.DENOMINATOR + 3) == "denominator_8"
    assert vocab.name(vocab.VELOCITY + 16) == "velocity_64"


def test_an_id_outside_the_table_is_refused():
    with pytest.raises(ValueError, match="token id"):
        vocab.name(vocab.N_VOCAB)


@pytest.mark.parametrize(
    ("notes", "bin_"), [(0, 0), (1, 1), (16, 16), (17, 17), (18, 17), (19, 18), (65, 25), (999, 25)]
)
def test_density_is_exact_up_to_sixteen_then_binned(notes, bin_):
    assert vocab.density_token(notes) == vocab.DENSITY + bin_


def test_tempo_bins_rise_and_hold_every_tempo():
    tokens = [vocab.tempo_token(bpm) for bpm in range(1, 1000)]
    assert tokens == sorted(tokens)
    assert tokens[0] == vocab.TEMPO
    assert tokens[-1] == vocab.TEMPO + vocab.COUNT["tempo"] - 1


def test_any_meter_has_tokens():
    assert vocab.meter_tokens(7, 8) == (vocab.NUMERATOR + 6, vocab.DENOMINATOR + 3)
    assert vocab.meter_tokens(255, 128) == (vocab.NUMERATOR + 31, vocab.DENOMINATOR + 6)
