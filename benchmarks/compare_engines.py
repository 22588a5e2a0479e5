"""Our engine beside llama.cpp, rwkv.cpp and the package rwkv: same weights, same machine, one run.

    python -m venv PEERS && PEERS/bin/pip install llama-cpp-python rwkv torch==2.13.0
    python benchmarks/compare_engines.py --peers PEERS/bin/python --rwkv-cpp BUILD/librwkv.so
    python benchmarks/compare_engines.py --peers PEERS/bin/python --shape shipped --threads 1

Random weights, exported once and quantised by each side's own means; what is missing is left out.
Every engine is a process of its own that waits for a job; the jobs go round in turn. Printed are
medians over the rounds [the best], and each peer's time over ours. rwkv.cpp and rwkv read one
sequence at a time.
"""

import argparse
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from peers import Peer, has, load_of_the_machine, serve, side_by_side, times

JOBS = {"decode B=1": (1, 1), "decode B=4": (4, 1), "decode B=8": (8, 1), "prefill": (1, 2048)}
PRECISIONS = {"fp32": "F32", "fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
CALLS = 24  # of a decode job, the median of which counts
VECTORS = (".x_rwkvag", ".x_k", ".k_k", ".k_a", ".r_k", ".w0", ".a0", ".v0")  # in rwkv.cpp's files


def serve_engine(prepare) -> None:
    """Answer [batch, length] with the median seconds of `prepare(batch, length)()`."""

    def answer(batch: int, length: int) -> float | None:
        call = prepare(batch, length)
        if call is None:
            return None
        call()
        return median(times(call, CALLS if length == 1 else 1))

    serve(answer)


def some_ids(count: int, vocab: int) -> list[int]:
    return [i * 7919 % vocab for i in range(1, count + 1)]


def serve_ours(path: str, threads: int) -> None:
    import numpy as np

    from anser.rwkv7 import checkpoint
    from anser.rwkv7.engine import Engine

    engine = Engine(checkpoint.load(path), threads=threads)

    def prepare(batch: int, length: int):
        state = engine.new_state(batch)
        ids = np.array(some_ids(batch * length, engine.dims.n_vocab)).reshape(batch, length)
        return lambda: engine.prefill(state, ids)

    serve_engine(prepare)


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
        position, ids = 0, some_ids(batch * length, vocab)

        def call() -> None:
            nonlocal position
            for i in range(batch * length):
                tokens.token[i] = ids[i]
                tokens.pos[i] = position + i % length
                tokens.n_seq_id[i], tokens.seq_id[i][0] = 1, i // length
                tokens.logits[i] = i % length == length - 1
            position += length
            if llama.llama_decode(context, tokens):
                raise RuntimeError("llama_decode failed")

        return call

    serve_engine(prepare)


def serve_rwkv(path: str, threads: int) -> None:
    os.environ |= {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
    import torch
    from rwkv.model import RWKV

    torch.set_num_threads(threads)
    model = RWKV(model=path.removesuffix(".pth"), strategy="cpu fp32")
    vocab = len(model.z["emb.weight"])

    def prepare(batch: int, length: int):
        if batch > 1:
            return None
        state, ids = None, some_ids(length, vocab)

        def call() -> None:
            nonlocal state
            _, state = model.forward(ids, state)

        return call

    serve_engine(prepare)


def rwkv_cpp():
    """Open rwkv.cpp's library, which the environment names."""
    library = ctypes.CDLL(os.environ["RWKV_CPP"])
    library.rwkv_init_from_file.restype = ctypes.c_void_p
    library.rwkv_get_state_len.restype = library.rwkv_get_n_vocab.restype = ctypes.c_size_t
    return library


def serve_rwkv_cpp(path: str, threads: int) -> None:
    library = rwkv_cpp()
    context = ctypes.c_void_p(library.rwkv_init_from_file(path.encode(), threads, 0))
    vocab = library.rwkv_get_n_vocab(context)
    state = (ctypes.c_float * library.rwkv_get_state_len(context))()
    logits = (ctypes.c_float * vocab)()

    def prepare(batch: int, length: int):
        if batch > 1:
            return None
        library.rwkv_init_state(context, state)
        ids = (ctypes.c_uint32 * length)(*some_ids(length, vocab))
        count, chunk = ctypes.c_size_t(length), ctypes.c_size_t(64)
        if length == 1:
            return lambda: library.rwkv_eval(context, ids[0], state, state, logits)
        read = library.rwkv_eval_sequence_in_chunks
        return lambda: read(context, ids, count, chunk, state, state, logits)

    serve_engine(prepare)


SERVERS = {
    "ours": serve_ours,
    "llama.cpp": serve_llama,
    "rwkv.cpp": serve_rwkv_cpp,
    "rwkv": serve_rwkv,
}


def quantise(source: str, target: str, kind: str) -> None:
    """Write a file at another precision by the means of the program that it is for."""
    if target.endswith(".bin"):
        done = rwkv_cpp().rwkv_quantize_model_file(source.encode(), target.encode(), kind.encode())
        if not done & 0xFF:
            raise SystemExit(f"rwkv.cpp cannot make {kind}")
        return
    llama = silent_llama()
    options = llama.llama_model_quantize_default_params()
    options.ftype, options.pure = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}"), kind != "F16"
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp cannot make {kind}")


def halve(source: Path, target: Path) -> None:
    """Write rwkv.cpp's file with its matrices in half precision, as its converter does."""
    from anser.rwkv7 import convert

    header = bytearray(source.read_bytes()[:24])
    header[20:24] = struct.pack("<i", 1)
    with target.open("wb") as file:
        file.write(header)
        for name, tensor in convert.read_rwkv_cpp(source).items():
            is_matrix = tensor.ndim > 1 and not name.endswith(VECTORS)
            key = name.encode()
            file.write(struct.pack("<3i", tensor.ndim, len(key), is_matrix))
            file.write(struct.pack(f"<{tensor.ndim}i", *tensor.shape[::-1]) + key)
            file.write(tensor.astype("<f2" if is_matrix else "<f4").tobytes())


def export(folder: Path, shape: str, precisions: list[str], peers: dict[str, str]) -> None:
    """Write the weights in each precision, and in the form of each peer."""
    from anser.rwkv7 import checkpoint, convert
    from shapes import SHAPES, random_tensors

    tensors = random_tensors(SHAPES[shape])
    if "llama.cpp" in peers:
        convert.write_weights(folder / "F32.gguf", tensors)
    if "rwkv" in peers:
        convert.write_weights(folder / "F32.pth", tensors)
    if "rwkv.cpp" in peers:
        convert.write_weights(folder / "F32.bin", tensors)
        halve(folder / "F32.bin", folder / "F16.bin")
    for precision in precisions:
        quantised = checkpoint.quantize(tensors, precision)
        checkpoint.save(folder / f"{precision}.safetensors", quantised, {})
        for peer, source in (("llama.cpp", "F32.gguf"), ("rwkv.cpp", "F16.bin")):
            target = Path(source).with_stem(PRECISIONS[precision])
            if peer in peers and not (folder / target).exists():
                files = [str(folder / source), str(folder / target), PRECISIONS[precision]]
                subprocess.run(
                    [peers[peer], __file__, "--quantise", *files],
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip


def start(folder: Path, precision: str, threads: int, pythons: dict[str, str]) -> list[Peer]:
    kind = PRECISIONS[precision]
    files = {"llama.cpp": f"{kind}.gguf", "rwkv.cpp": f"{kind}.bin", "rwkv": f"{kind}.pth"}
    started = []
    for name, python in {"ours": sys.executable, **pythons}.items():
        path = folder / files.get(name, f"{precision}.safetensors")
        if path.exists():
            started.append(Peer(name, python, __file__, "--serve", name, str(path), str(threads)))
    return started


def compare(engines: list[Peer], head: str, jobs: list[str], rounds: int) -> None:
    """Time every job on every engine in turn, and print the medians."""
    for job in jobs:
        batch, length = JOBS[job]
        taken: dict[str, list[float]] = {engine.name: [] for engine in engines}
        for _ in range(rounds if length == 1 else max(3, rounds // 3)):
            for engine in engines:
                measured = engine.ask(batch, length)
                if measured is not None:
                    taken[engine.name].append(measured)
        cells = [
            f"{name} {1e3 * median(t):.2f} ms [{1e3 * min(t):.2f}]"
            + (f" {side_by_side(taken['ours'], t)}" if name != "ours" else "")
            for name, t in taken.items()
            if len(t) == len(taken["ours"])
        ]
        print(f"  {head} {job:10}  {'   '.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the others")
    parser.add_argument("--rwkv-cpp", metavar="FILE", help="rwkv.cpp's library, librwkv.so")
    parser.add_argument("--shape", nargs="+", default=["music-38M", "shipped"])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--quantise", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        name, path, threads = args.serve
        return SERVERS[name](path, int(threads))
    if args.quantise:
        return quantise(*args.quantise)
    pythons = {}
    for name, modules in (("llama.cpp", "llama_cpp"), ("rwkv", "rwkv, torch")):
        if has(args.peers, modules):
            pythons[name] = args.peers
    if args.rwkv_cpp:
        os.environ["RWKV_CPP"] = str(Path(args.rwkv_cpp).resolve())
        pythons["rwkv.cpp"] = sys.executable
    print(f"load of the machine: {load_of_the_machine()}")
    for shape in args.shape:
        print(f"{shape}: medians [best]; x = a peer's time over ours, median of the rounds")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            export(folder, shape, args.precision, pythons)
            for threads in args.threads:
                for precision in args.precision:
                    engines = start(folder, precision, threads, pythons)
                    head = f"{threads} thread(s) {precision}"
                    compare(engines, head, args.jobs, args.rounds)
                    for engine in engines:
                        engine.close()


if __name__ == "__main__":
    main()
