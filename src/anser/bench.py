"""A model and this machine → how fast it decodes, reads, loads and answers, and its memory.

`anser bench` prints all of it; the scripts in `benchmarks/` measure other weights and other
programs with the same functions. Times are medians of wall-clock time.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anser import demo, models
from anser.infill import Decided, Request, infill
from anser.rwkv7.engine import Engine, State
from anser.rwkv7.prefix import PrefixCache
from anser.selection import Selection
from anser.song import Song, splice

JOBS: Final = {
    "1 track": "bass:37-40",
    "3 tracks": "lead guitar:37-40, bass:37-40, drums:37-40",
}
N_BARS: Final = 64
EARLY: Final = 1000  # position of a token early in a song, and below, of one late
LATE: Final = 8192
VERY_LATE: Final = 1_000_000

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Memory:
    """Memory of a process in bytes: what is resident, and the most that ever was."""

    resident: int
    peak: int


@dataclass(frozen=True)
class Opened:
    """What opening a model took."""

    seconds: float  # the median
    first_seconds: float  # the first time
    resident: int | None  # bytes that weights and engine keep in memory, once it has answered


@dataclass(frozen=True)
class Latency:
    """Seconds from a call until its first note, and until its songs are ready."""

    first_note: float
    done: float
    n_notes: int


def seconds(call: Callable[[], object], budget: float = 0.5, at_least: int = 3) -> float:
    """Return the median time of a call: as many calls as fit in the budget (seconds)."""
    call()
    taken: list[float] = []
    while len(taken) < at_least or sum(taken) < budget:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def ratio(one: Callable[[], object], other: Callable[[], object], pairs: int) -> float:
    """Return how many times as long one call takes as the other; each is timed first in turn."""
    calls = (one, other)
    taken: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in (pair % 2, 1 - pair % 2):
            start = time.perf_counter()
            calls[which]()
            taken[which].append(time.perf_counter() - start)
    return median(taken[0]) / median(taken[1])


def some_ids(engine: Engine, batch: int, length: int) -> NDArray[np.int64]:
    """Return ids [batch, length] from all over the vocabulary, the same each time."""
    ids = np.arange(1, batch * length + 1).reshape(batch, length)
    return ids * 7919 % engine.dims.n_vocab


def decode(engine: Engine, batch: int, budget: float = 0.5) -> float:
    """Return the seconds of one step of `batch` sequences."""
    step = stepping(engine, engine.new_state(batch))
    return seconds(step, budget, at_least=20)


def stepping(engine: Engine, state: State) -> Callable[[], object]:
    """Return a call that reads one more id of each sequence."""
    ids = some_ids(engine, state.batch, 1)[:, 0]
    return lambda: engine.step(state, ids)


def prefill(engine: Engine, length: int, budget: float = 0.5, at_least: int = 3) -> float:
    """Return the seconds of reading `length` ids of one sequence."""
    state, ids = engine.new_state(), some_ids(engine, 1, length)
    return seconds(lambda: engine.prefill(state, ids), budget, at_least)


def late_over_early(engine: Engine, late: int, pairs: int = 150) -> float:
    """Return the time of a token at position `late` over that of one at `EARLY`.

    Where a state lies in memory can matter as much, so each is timed in the other's place too.
    """
    states = [engine.new_state() for _ in range(2)]
    for state, position in zip(states, (late, EARLY), strict=True):
        for begin in range(0, position, 4096):
            engine.prefill(state, some_ids(engine, 1, min(4096, position - begin)))
    one, other = (stepping(engine, state) for state in states)
    as_read = ratio(one, other, pairs)
    for state, values in zip(states, [state.copy() for state in reversed(states)], strict=True):
        state.shift[:], state.wkv[:] = values.shift, values.wkv
    return math.sqrt(as_read * ratio(other, one, pairs))


def memory() -> Memory | None:
    """Return the memory of this process; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return Memory(int(values["VmRSS"]) * 1024, int(values["VmHWM"]) * 1024)


def opened(load: Callable[[], Engine], times: int = 5) -> tuple[Engine, Opened]:
    """Open a model several times; the memory is that of the first, after a prefill and a step.

    The memory is right in a process that has not opened a model before.
    """
    before = memory()
    start = time.perf_counter()
    engine = load()
    first = time.perf_counter() - start
    state = engine.new_state()
    engine.prefill(state, some_ids(engine, 1, 256))
    engine.step(state, [0])
    after = memory()
    resident = after.resident - before.resident if before and after else None
    del engine, state
    again = seconds(load, 0.0, times)
    return load(), Opened(again, first, resident)


def reference_song() -> Song:
    """Return 64 bars of six tracks: the packaged song, played over and over."""
    once = demo.song()
    longer = once.extended(N_BARS - once.n_bars)
    length, end = int(once.bars.starts[-1]), int(longer.bars.starts[-1])
    notes = {}
    for number, track in enumerate(once.tracks):
        again = np.concatenate([track.notes] * (N_BARS // once.n_bars))
        again["onset"] += np.repeat(
            np.arange(1, N_BARS // once.n_bars + 1) * length, len(track.notes)
        )
        again = again[again["onset"] < end]
        again["duration"] = np.minimum(again["duration"], end - again["onset"])
        notes[number] = again
    new = Selection.of(range(len(once.tracks)), range(once.n_bars, N_BARS))
    return splice(longer, new, notes)


def latency(engine: Engine, request: Request, prefixes: PrefixCache) -> Latency:
    """Answer a request, with a watch; without a note, the first one counts as the last."""
    first: float | None = None
    n_notes = 0

    def on_event(event: Decided) -> None:
        nonlocal first, n_notes
        n_notes += len(event.notes)
        if first is None and len(event.notes):
            first = time.perf_counter() - start

    start = time.perf_counter()
    infill(engine, request, on_event, prefixes)
    done = time.perf_counter() - start
    return Latency(done if first is None else first, done, n_notes)


def job(engine: Engine, cells: str, takes: int, repeats: int) -> dict[str, Latency]:
    """Return the latency of a first call and of a re-roll of the reference song's cells."""
    song = reference_song()
    selection = Selection.parse(cells, song)
    calls: dict[str, list[Latency]] = {"first call": [], "re-roll": []}
    for seed in range(repeats):
        prefixes = PrefixCache(engine)
        for n, taken in enumerate(calls.values()):
            request = Request(song, selection, takes=takes, seed=2 * seed + n)
            taken.append(latency(engine, request, prefixes))
    return {call: _medians(taken) for call, taken in calls.items()}


def _medians(taken: list[Latency]) -> Latency:
    return Latency(
        median(t.first_note for t in taken),
        median(t.done for t in taken),
        round(median(t.n_notes for t in taken)),
    )


def machine() -> dict[str, Any]:
    """Return what a reader needs to know of this machine."""
    name = "unknown"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"processor": name, "cores": os.cpu_count(), "load": load, "system": sys.platform}


def measure(model: str | None, threads: int | None, *, long: bool, tell: Tell) -> dict[str, Any]:
    """Measure everything, ready for JSON: times in milliseconds, memory in MB (10^6 bytes).

    Memory first, in a process that has done nothing else. Raises `CheckpointError` when there is no
    such model.
    """
    name = model or models.DEFAULT
    report: dict[str, Any] = {"model": name, "machine": machine()}
    tell("loading")
    engine, load = opened(lambda: models.load(name, threads=threads).engine)
    report |= {"threads": engine.threads, "instructions": engine.instructions}
    report["load"] = {"ms": _ms(load.seconds), "first_ms": _ms(load.first_seconds)}
    report["jobs"] = [row for takes in (1, 8) for row in _jobs(engine, takes, tell)]
    used = memory()
    report["memory"] = {
        "engine_mb": None if load.resident is None else round(load.resident / 1e6, 1),
        "peak_mb": None if used is None else round(used.peak / 1e6, 1),
    }
    report["decode"] = []
    for batch in (1, 4, 16):
        tell(f"decoding {batch} at once")
        step = decode(engine, batch)
        row = {"batch": batch, "ms": _ms(step), "tokens_per_second": round(batch / step)}
        report["decode"].append(row)
    report["prefill"] = []
    for length in (512, 4096, *((32768,) if long else ())):
        tell(f"reading {length} ids")
        read = prefill(engine, length, at_least=1 if length > 4096 else 3)
        row = {"length": length, "ms": _ms(read), "tokens_per_second": round(length / read)}
        report["prefill"].append(row)
    late = VERY_LATE if long else LATE
    tell(f"reading up to position {late}")
    times = late_over_early(engine, late)
    report["position"] = {"early": EARLY, "late": late, "ratio": round(times, 3)}
    return report


def _jobs(engine: Engine, takes: int, tell: Tell) -> Iterator[dict[str, Any]]:
    for name, cells in JOBS.items():
        tell(f"4 bars of {name}, takes: {takes}")
        for call, taken in job(engine, cells, takes, repeats=3 if takes == 1 else 1).items():
            figures = {k: _ms(v) if k != "n_notes" else v for k, v in asdict(taken).items()}
            yield {"cells": name, "takes": takes, "call": call, **figures}


def _ms(measured: float) -> float:
    return round(1e3 * measured, 2)


def table(report: dict[str, Any]) -> str:
    """Return the report as people read it."""
    return "\n".join(_lines(report))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    machine, memory = report["machine"], report["memory"]
    model = Path(report["model"]).name
    yield f"{model} on {machine['processor']}, {machine['cores']} cores"
    yield f"{report['threads']} threads, {report['instructions']}, load {machine['load']}"
    yield ""
    for row in report["decode"]:
        yield f"decode, {row['batch']:2} at once   {_speed(row)}"
    for row in report["prefill"]:
        yield f"prefill, {row['length']:5} ids  {_speed(row)}"
    at = report["position"]
    yield f"token at position {at['late']} over one at {at['early']}: {at['ratio']:.3f}"
    load = report["load"]
    yield f"load                {load['ms']:8.1f} ms ({load['first_ms']:.1f} the first time)"
    if memory["engine_mb"] is not None:
        yield f"memory, engine      {memory['engine_mb']:8.1f} MB"
        yield f"memory, process     {memory['peak_mb']:8.1f} MB at its peak, after the jobs below"
    yield ""
    yield f"4 bars of {N_BARS}, six tracks        first note     ready   notes"
    for row in report["jobs"]:
        name = f"{row['cells']}, takes: {row['takes']}, {row['call']}"
        yield f"{name:34} {row['first_note']:6.0f} ms {row['done']:6.0f} ms {row['n_notes']:7}"


def _speed(row: dict[str, Any]) -> str:
    return f"{row['ms']:8.2f} ms {row['tokens_per_second']:7} tokens/s"
