"""The public names: few, sorted, documented, and there."""

import inspect

import pytest

import anser


def test_the_contents_page_is_sorted_and_short():
    assert anser.__all__ == sorted(anser.__all__)
    assert len(anser.__all__) <= 15


@pytest.mark.parametrize("name", anser.__all__)
def test_every_public_name_is_there_and_documented(name):
    thing = getattr(anser, name)
    assert (inspect.getdoc(thing) or "").strip()


@pytest.mark.parametrize("name", anser.__all__)
def test_public_methods_are_documented(name):
    thing = getattr(anser, name)
    if not inspect.isclass(thing) or issubclass(thing, Exception):
        return
    for attribute, value in vars(thing).items():
        if not attribute.startswith("_") and callable(value):
            assert inspect.getdoc(value), f"{name}.{attribute}"


def test_dir_lists_the_public_names():
    assert dir(anser) == anser.__all__


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'infil'"):
        _ = anser.infil


def test_errors_are_anser_errors_and_value_errors():
    for name in ("CheckpointError", "ControlError", "MidiError", "SelectionError"):
        error = getattr(anser, name)
        assert issubclass(error, anser.AnserError)
        assert issubclass(error, ValueError)
