"""Options and fixtures that several test modules share."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "parity"))  # for formula.py, which benchmarks use too


def pytest_addoption(parser):
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=None,
        help="folder of the full RWKV-7 parity files and real checkpoints (tests/parity/README.md)",
    )


@pytest.fixture(scope="session")
def parity_dir(request):
    """The folder of full parity files; tests that need it are skipped without it."""
    folder = request.config.getoption("--parity-dir")
    if folder is None:
        pytest.skip("needs the full parity files: pytest --parity-dir DIR")
    return folder


@pytest.fixture(scope="session")
def parity(request):
    """Function of a tag: the fields of that parity file, the full one if the option is given."""
    folder = request.config.getoption("--parity-dir") or HERE / "parity"
    opened = {}

    def read(tag):
        if tag not in opened:
            opened[tag] = np.load(folder / f"rwkv7_parity_{tag}.npz")
        return opened[tag]

    return read


@pytest.fixture(scope="session")
def parity_weights():
    """Function of a tag: its float32 weights under official names."""
    import formula

    made = {}

    def make(tag):
        if tag not in made:
            made[tag] = formula.make_weights(tag)
        return made[tag]

    return make


@pytest.fixture(scope="session")
def reverse_path():
    """A small trained model of another author, as published."""
    return HERE / "parity" / "reverse_L2_rwkv7.pth"
