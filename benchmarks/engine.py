"""Speed of the engine on this machine: decode, prefill and load, by precision and threads.

    python benchmarks/engine.py                        random weights, 12 layers of width 384
    python benchmarks/engine.py --checkpoint FILE      the weights of a file
    python benchmarks/engine.py --layers 12 --width 384 --vocab 16000 --precision int8

Medians of wall-clock time and of the processor time of all threads; run it on an idle machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anser.rwkv7 import checkpoint as checkpoints
from anser.rwkv7.checkpoint import Checkpoint
from anser.rwkv7.dims import ModelDims
from anser.rwkv7.engine import Engine


def random_tensors(dims: ModelDims, seed: int = 1) -> dict[str, np.ndarray]:
    """Weights of the right shapes and of about the size that training gives them."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in dims.shapes().items():
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.1
        tensors[name] = rng.standard_normal(shape, np.float32) * np.float32(scale)
        if name.endswith(("ln1.weight", "ln2.weight", "ln_x.weight", "ln_out.weight")):
            tensors[name] += 1
    return tensors


def median(seconds_each: Callable[[], object], budget: float) -> tuple[float, float]:
    """Median wall and processor seconds of one call, within about `budget` seconds."""
    seconds_each()
    wall, processor = [], []
    end = time.perf_counter() + budget
    while len(wall) < 3 or time.perf_counter() < end:
        start, start_cpu = time.perf_counter(), time.process_time()
        seconds_each()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_cpu)
    return float(np.median(wall)), float(np.median(processor))


def measure(path: Path, threads: int, budget: float) -> None:
    load, _ = median(lambda: Engine(checkpoints.load(path), threads=threads), budget)
    engine = Engine(checkpoints.load(path), threads=threads)
    print(f"  {threads} thread(s), {engine.instructions}: load {1e3 * load:.0f} ms")
    rng = np.random.default_rng(0)
    for batch in (1, 4, 8):
        state = engine.new_state(batch)
        ids = rng.integers(0, engine.dims.n_vocab, batch)
        wall, cpu = median(lambda s=state, i=ids: engine.step(s, i), budget)
        times = f"{1e3 * wall:6.2f} ms (processor {1e3 * cpu:6.2f})"
        print(f"    decode B={batch}: {times}, {batch / wall:5.0f} tok/s")
    for length in (512, 2048):
        state = engine.new_state()
        ids = rng.integers(0, engine.dims.n_vocab, (1, length))
        wall, cpu = median(lambda s=state, i=ids: engine.prefill(s, i), budget)
        rates = f"{length / wall:5.0f} tok/s ({length / cpu:5.0f} a processor second)"
        print(f"    prefill {length}: {rates}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint file (default: random)")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocab", type=int, default=700)
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16", "int8"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="spent on each figure")
    args = parser.parse_args()
    if args.checkpoint:
        model = checkpoints.load(args.checkpoint)
    else:
        d = args.width
        dims = ModelDims(args.layers, d, args.vocab, 64, 4 * d, 64, 64, 32, 96)
        model = Checkpoint(dims, random_tensors(dims), {})
    print(model.dims)
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precision:
            path = Path(folder) / f"{precision}.safetensors"
            checkpoints.save(path, checkpoints.quantize(model.tensors, precision), {})
            print(f"{precision}: {path.stat().st_size / 1e6:.1f} MB")
            for threads in args.threads:
                measure(path, threads, args.seconds)
            path.unlink()


if __name__ == "__main__":
    main()
