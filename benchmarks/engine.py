"""The engine on this machine: speed, memory, and how both bear threads, batches and neighbours.

    python benchmarks/engine.py                                 the shapes of shapes.py, int8
    python benchmarks/engine.py --checkpoint FILE               the weights of a file, as they are
    python benchmarks/engine.py --shape music-38M --precision fp32 int4

What `anser bench` measures is measured by the same code (`anser.bench`), for each precision and
number of threads in a process of its own. Ratios are of calls that are timed in turn, so that a
busy machine disturbs both sides alike.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from anser import bench
from anser.rwkv7 import checkpoint as checkpoints
from anser.rwkv7.engine import Engine
from shapes import SHAPES, random_tensors

BUSY = "while True: pass"
PAIRS = 100
IN_A_ROW = 20


def open_engine(path: Path, threads: int) -> Engine:
    return Engine(checkpoints.load(path), threads=threads)


def speed(path: Path, threads: int, late: int) -> None:
    """Print what one engine does; in a fresh process, so that its memory is its own."""
    engine, load = bench.opened(lambda: open_engine(path, threads))
    print(f"  {threads} thread(s), {engine.instructions}")
    resident = "unknown" if load.resident is None else f"{load.resident / 1e6:.1f} MB"
    print(f"    load {1e3 * load.seconds:.1f} ms (first {1e3 * load.first_seconds:.1f})", end="")
    print(f", resident {resident} (goals for int8: 20 ms, 45 MB)", flush=True)
    for batch in (1, 4, 8, 16):
        step = bench.decode(engine, batch)
        print(f"    decode B={batch}: {1e3 * step:.2f} ms, {batch / step:.0f} tokens/s", flush=True)
    for length in (512, 2048):
        read = bench.prefill(engine, length)
        print(f"    prefill {length}: {1e3 * read:.0f} ms, {length / read:.0f} tokens/s")
    one, eight = (bench.stepping(engine, engine.new_state(n)) for n in (1, 8))
    print(f"    8 at once over 1, tokens/s: {8 * bench.ratio(one, eight, PAIRS):.2f} (goal 4)")
    if late:
        ratio = bench.late_over_early(engine, late, 5 * PAIRS)
        print(f"    token at {late} over {bench.EARLY}: {ratio:.3f} (goal 1.02)", flush=True)


def tokens_in_a_row(engine: Engine) -> Callable[[], object]:
    """Return a call that reads IN_A_ROW ids: threads that slept wake for the first only."""
    step = bench.stepping(engine, engine.new_state())
    return lambda: [step() for _ in range(IN_A_ROW)]


def scaling(path: Path) -> None:
    """Print what a second thread gains, alone and beside two busy processes."""
    one, two = (open_engine(path, threads) for threads in (1, 2))
    runs = [tokens_in_a_row(e) for e in (one, two)]
    print(f"  2 threads over 1, decode: {bench.ratio(*runs, PAIRS // 4):.2f} (goal 1.7)")
    ids = bench.some_ids(one, 1, 2048)
    reads = [lambda e=e: e.prefill(e.new_state(), ids) for e in (one, two)]
    print(f"  2 threads over 1, prefill: {bench.ratio(*reads, 3):.2f} (goal 1.7)", flush=True)
    neighbours = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(2)]
    try:
        ratio = bench.ratio(*reversed(runs), PAIRS // 2)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    print(f"  beside two busy processes, time of 2 threads over 1: {ratio:.2f} (goal 1.5)")


def measure(path: Path, threads: list[int], late: int) -> None:
    print(f"{path.stem}: {path.stat().st_size / 1e6:.1f} MB")
    jobs = [(speed, path, n, late) for n in threads] + [(scaling, path)]
    for job in jobs:
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            fresh.submit(*job).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint file (default: random)")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precision", nargs="+", default=["int8"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--position", type=int, default=0, help="a late one to try: 100000")
    args = parser.parse_args()
    if args.checkpoint:
        return measure(args.checkpoint, args.threads, args.position)
    with tempfile.TemporaryDirectory() as folder:
        for shape in args.shape:
            tensors = random_tensors(SHAPES[shape])
            for precision in args.precision:
                path = Path(folder) / f"{shape}-{precision}.safetensors"
                checkpoints.save(path, checkpoints.quantize(tensors, precision), {})
                measure(path, args.threads, args.position)
                path.unlink()


if __name__ == "__main__":
    main()
