"""The pool of threads by itself: nothing is left asleep, and every item is done once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(os.name != "posix" or COMPILER is None, reason="needs signals and a compiler")
def test_an_interrupted_caller_leaves_no_thread_asleep(tmp_path):
    program = tmp_path / "pool"
    source = ROOT / "tests" / "native" / "pool.cpp"
    # not optimised: an interrupt then finds every step between two others
    flags = ["-std=c++17", "-O0", "-pthread", f"-I{ROOT / 'native'}"]
    subprocess.run([COMPILER, *flags, source, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
