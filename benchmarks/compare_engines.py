"""Our engine beside llama.cpp and the package rwkv: same weights, same machine, one run.

    python -m venv PEERS && PEERS/bin/pip install llama-cpp-python     # rwkv torch, if wanted
    python benchmarks/compare_engines.py --peers PEERS/bin/python
    python benchmarks/compare_engines.py --peers PEERS/bin/python --shape shipped --threads 1

Random weights, exported once and quantised by each side's own means. Every engine is a process of
its own that waits for a job; the jobs go round in turn, so that a busy machine disturbs all alike.
Printed are medians over the rounds and our time against the best peer of the same precision.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOBS = {"decode B=1": (1, 1), "decode B=4": (4, 1), "decode B=8": (8, 1), "prefill": (1, 2048)}
SHAPES = {"music-38M": 16000, "shipped": 1024}  # vocabularies; both have 12 layers of width 384
PRECISIONS = {"fp32": "F32", "fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
CALLS = 24  # of a decode job, the median of which counts


def seconds(call, calls: int) -> float:
    """Median seconds of one call."""
    took = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def serve(prepare) -> None:
    """Answer each line "batch length" with the seconds that `prepare(batch, length)()` takes."""
    print("ready", flush=True)
    for line in sys.stdin:
        batch, length = map(int, line.split())
        call = prepare(batch, length)
        call()
        print(seconds(call, CALLS if length == 1 else 1), flush=True)


def serve_ours(path: str, threads: int) -> None:
    import numpy as np

    from anser.rwkv7 import checkpoint
    from anser.rwkv7.engine import Engine

    engine = Engine(checkpoint.load(path), threads=threads)

    def prepare(batch: int, length: int):
        state = engine.new_state(batch)
        ids = np.arange(batch * length).reshape(batch, length) * 7919 % engine.dims.n_vocab
        return lambda: engine.prefill(state, ids)

    serve(prepare)


def silent_llama():
    """Import llama.cpp without its log."""
    import llama_cpp as llama

    llama.silence = llama.llama_log_callback(lambda *_: None)  # kept: it is called from C
    llama.llama_log_set(llama.silence, None)
    return llama


def serve_llama(path: str, threads: int) -> None:
    llama = silent_llama()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = 1 << 16, 2048, 512, 8
    options.n_threads = options.n_threads_batch = threads
    context = llama.llama_init_from_model(model, options)

    def prepare(batch: int, length: int):
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        tokens = llama.llama_batch_init(batch * length, 0, 1)
        tokens.n_tokens = batch * length
        position = 0

        def call() -> None:
            nonlocal position
            for i in range(batch * length):
                tokens.token[i] = i * 7919 % vocab
                tokens.pos[i] = position + i % length
                tokens.n_seq_id[i], tokens.seq_id[i][0] = 1, i // length
                tokens.logits[i] = i % length == length - 1
            position += length
            if llama.llama_decode(context, tokens):
                raise RuntimeError("llama_decode failed")

        return call

    serve(prepare)


def serve_rwkv(path: str, threads: int) -> None:
    import os

    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(threads)
    model = RWKV(model=path.removesuffix(".pth"), strategy="cpu fp32")

    def prepare(batch: int, length: int):
        if batch > 1:
            raise ValueError("one sequence only")
        state = None

        def call() -> None:
            nonlocal state
            _, state = model.forward([i * 7919 % 1000 for i in range(length)], state)

        return call

    serve(prepare)


def quantise_llama(source: str, target: str, kind: str) -> None:
    import ctypes

    llama = silent_llama()
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.pure = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}"), kind != "F16"
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp cannot make {kind}")


class Peer:
    """An engine in a process of its own."""

    def __init__(self, name: str, python: str, *command: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, __file__, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if self._process.stdout.readline() != "ready\n":
            raise OSError(f"{name} does not start")

    def seconds(self, batch: int, length: int) -> float:
        """Median seconds of one call; infinite once the process has ended."""
        try:
            self._process.stdin.write(f"{batch} {length}\n")
            self._process.stdin.flush()
            return float(self._process.stdout.readline() or "inf")
        except BrokenPipeError:
            return float("inf")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def has(python: str, module: str) -> bool:
    """Say whether an interpreter can import a module; tell the reader if not."""
    done = subprocess.run([python, "-c", f"import {module}"], capture_output=True)
    if done.returncode:
        print(f"no {module} in {python}: left out (pip install it there, or name --peers)")
    return done.returncode == 0


def export(folder: Path, vocab: int, python: str) -> None:
    """Write the weights in each precision and form."""
    import numpy as np

    from anser.rwkv7 import checkpoint, convert
    from anser.rwkv7.dims import ModelDims
    from engine import random_tensors

    dims = ModelDims(12, 384, vocab, 64, 1536, 64, 64, 32, 96)
    tensors = random_tensors(dims)
    for name, shape in dims.optional_shapes().items():  # which the other programs want
        if name.startswith("blocks.0.") and not name.endswith(("state", "output.bias")):
            tensors[name] = np.full(shape, float(name.endswith("ln0.weight")), np.float32)
    for precision, kind in PRECISIONS.items():
        quantised = checkpoint.quantize(tensors, precision)
        checkpoint.save(folder / f"{precision}.safetensors", quantised, {})
        if precision == "fp32":
            convert.write_weights(folder / "F32.gguf", tensors)
        elif has(python, "llama_cpp"):
            files = [str(folder / f"{k}.gguf") for k in ("F32", kind)]
            subprocess.run([python, __file__, "--quantise", *files, kind], check=True)


def compare(folder: Path, threads: int, precisions: list[str], rounds: int, python: str) -> None:
    """Time every job on every engine in turn, and print the medians."""
    for precision in precisions:
        kind = PRECISIONS[precision]
        commands = {"anser": (sys.executable, "ours", str(folder / f"{precision}.safetensors"))}
        if has(python, "llama_cpp"):
            commands[f"llama.cpp {kind}"] = (python, "llama", str(folder / f"{kind}.gguf"))
        if precision == "fp32" and (folder / "rwkv.pth").exists():
            commands["rwkv"] = (python, "rwkv", str(folder / "rwkv.pth"))
        peers = [
            Peer(name, interpreter, "--serve", which, path, str(threads))
            for name, (interpreter, which, path) in commands.items()
        ]
        for job, (batch, length) in JOBS.items():
            times = {peer.name: [] for peer in peers}
            for _ in range(rounds if length == 1 else max(3, rounds // 3)):
                for peer in peers:
                    times[peer.name].append(peer.seconds(batch, length))
            ratios = [
                statistics.median(t / o for t, o in zip(theirs, times["anser"], strict=True))
                for name, theirs in times.items()
                if name != "anser"
            ]
            cells = "  ".join(
                f"{name} {1e3 * statistics.median(t):8.2f} ms [{1e3 * min(t):.2f}]"
                for name, t in times.items()
            )
            ratio = f"  x{min(ratios):.2f}" if ratios else ""
            print(f"  {threads} thread(s) {precision} {job:10}  {cells}{ratio}", flush=True)
        for peer in peers:
            peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the others")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--quantise", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        which, path, threads = args.serve
        servers = {"ours": serve_ours, "llama": serve_llama, "rwkv": serve_rwkv}
        return servers[which](path, int(threads))
    if args.quantise:
        return quantise_llama(*args.quantise)
    print(json.dumps({"load of the machine": Path("/proc/loadavg").read_text().split()[:3]}))
    for shape in args.shape:
        print(f"{shape}: medians [best]; x = peer's time over ours, median of the rounds")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            export(folder, SHAPES[shape], args.peers)
            if has(args.peers, "rwkv, torch"):
                from anser.rwkv7 import checkpoint, convert

                full = checkpoint.load(folder / "fp32.safetensors").tensors
                convert.write_weights(folder / "rwkv.pth", full)
            for threads in args.threads:
                compare(folder, threads, args.precision, args.rounds, args.peers)


if __name__ == "__main__":
    main()
