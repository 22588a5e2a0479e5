"""Programs side by side: each is a process of its own that waits for jobs; they go round in turn.

A busy machine so disturbs all alike, and the ratio of two times of one round means something. A
peer's Python need not have Anser: this file and those that use it import it late.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ANSWER = "answer:"  # begins the lines that are answers; programs print other things too


def times(call: Callable[[], object], calls: int) -> list[float]:
    """Seconds of each of so many calls."""
    taken = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def serve(answer: Callable[..., object]) -> None:
    """Answer each line, a JSON list of arguments, with one line of JSON."""
    print(ANSWER, json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(ANSWER, json.dumps(answer(*json.loads(line))), flush=True)


class Peer:
    """A program in a process of its own."""

    def __init__(self, name: str, python: str, script: str, *words: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if self._receive() != "ready":
            raise OSError(f"{name} does not start: {python} {script} {' '.join(words)}")

    def ask(self, *job: object) -> object:
        """Return the answer to a job; None once the process has ended."""
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        return self._receive()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _receive(self) -> object:
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        return None


def has(python: str, modules: str) -> bool:
    """Say whether an interpreter can import modules; tell the reader if not."""
    done = subprocess.run([python, "-c", f"import {modules}"], capture_output=True)
    if done.returncode:
        print(f"no {modules} in {python}: left out (pip install it there, or name --peers)")
    return done.returncode == 0


def side_by_side(ours: list[float], theirs: list[float]) -> str:
    """Say by how much ours is faster: the median of the rounds' ratios."""
    return f"x{median(t / o for o, t in zip(ours, theirs, strict=True)):.2f}"


def load_of_the_machine() -> str:
    return Path("/proc/loadavg").read_text(encoding="ascii").rsplit(" ", 2)[0]
