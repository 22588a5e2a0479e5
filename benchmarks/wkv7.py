"""Times and errors of the Triton recurrence on a GPU; --sweep tries other launch settings.

PYTHONPATH=src python benchmarks/wkv7.py [--sweep]
"""

import argparse
import time

import torch

from anser.rwkv7.torch import wkv7_kernels, wkv7_triton
from anser.rwkv7.torch.wkv7 import wkv7 as loop
from anser.rwkv7.torch.wkv7_triton import wkv7_triton as wkv7

# Settings of a sweep: warps; rows of S, warps and pipeline depth; warps and register limit.
WARPS = (1, 2, 4)
SCAN = ((16, 1, 2), (16, 1, 4), (32, 1, 2), (32, 2, 2), (64, 4, 2), (64, 4, 3), (64, 4, 4))
GRADIENTS = ((1, 0), (2, 0), (2, 168), (2, 128), (4, 0), (4, 168))


def inputs(B, T, H, n_seq, N=64):
    """Six inputs and a state on the GPU: unit keys, learning rates and decays in their ranges."""
    g = torch.Generator("cuda").manual_seed(B + T)

    def normal(*size):
        return torch.randn(*size, generator=g, device="cuda")

    shape = (B, T, H, N)
    log_w = -0.6065306597 * torch.sigmoid(2 * normal(*shape))
    kk = torch.nn.functional.normalize(normal(*shape), dim=-1)
    x = [normal(*shape), log_w, normal(*shape), normal(*shape), -kk, kk * normal(*shape).sigmoid()]
    x = [t if i == 1 else t.bfloat16() for i, t in enumerate(x)]
    return [t.requires_grad_() for t in (*x, normal(n_seq, H, N, N))]


def milliseconds(run, repeat=15):
    """Median of `repeat` runs, after three."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeat):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        times.append((start, end))
    torch.cuda.synchronize()
    return sorted(s.elapsed_time(e) for s, e in times)[repeat // 2]


def packed_offsets(n_token, n_seq):
    """int32 [n_seq + 1]: unequal multiples of 16 that fill n_token."""
    share = torch.empty(n_seq).log_normal_(0, 0.8, generator=torch.Generator().manual_seed(0))
    ends = (share.cumsum(0) / share.sum() * (n_token // 16)).round().int() * 16
    return torch.cat([torch.zeros(1, dtype=torch.int32), ends]).cuda()


class Recorder:
    """Stands in for the module of kernels, and keeps every launch."""

    def __init__(self):
        self.launches = {}

    def __getattr__(self, name):
        kernel = getattr(wkv7_kernels, name)

        def at(grid):
            def launch(*args, **options):
                key = name + (" reverse" if options.get("REVERSE") else "")
                self.launches[key] = (kernel, grid, args, options)
                return kernel[grid](*args, **options)

            return launch

        return type("Grid", (), {"__getitem__": lambda _, grid: at(grid)})()


def report(name, x, offsets, sweep=None):
    """Print the times of a shape; `sweep`: of kernels so named, those of other settings too."""
    y, final = wkv7(*x, offsets)
    dy, dfinal = torch.randn_like(y), torch.randn_like(final)

    def forward():
        with torch.no_grad():
            wkv7(*x, offsets)

    def backward():
        torch.autograd.grad((y, final), x, (dy, dfinal), retain_graph=True)

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    backward()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    print(
        f"{name}: forward {milliseconds(forward):.3f} ms, backward {milliseconds(backward):.3f} ms,"
        f" backward's memory {peak:.2f} GiB",
        flush=True,
    )
    recorder = Recorder()
    original, wkv7_triton._kernels = wkv7_triton._kernels, lambda: recorder
    forward()
    backward()
    wkv7_triton._kernels = original
    for key, (kernel, grid, args, options) in recorder.launches.items():
        line = [f"  {key}:"]
        swept = sweep is not None and key.startswith(sweep)
        for label, changed, cells in variants(key, options, grid) if swept else ():
            try:
                cost = milliseconds(lambda: kernel[cells](*args, **changed), 9)  # noqa: B023
            except Exception as error:  # noqa: BLE001 - a setting may not fit the device
                cost = float("nan")
                line.append(type(error).__name__)
            line.append(f"{label} {cost:.3f}")
        chosen = milliseconds(lambda: kernel[grid](*args, **options), 9)  # noqa: B023
        print(*line, f"| chosen {chosen:.3f} ms", flush=True)


def variants(key, options, grid):
    if key.startswith("scan"):
        unit = grid[0] // (options["N"] // options["ROWS"])
        for rows, warps, stages in SCAN:
            changed = {**options, "ROWS": rows, "STAGES": stages, "num_warps": warps}
            yield f"{rows}/{warps}/{stages}", changed, (unit * (options["N"] // rows),)
        return
    if key == "gradients":
        for warps, cap in GRADIENTS:
            changed = {**options, "num_warps": warps} | ({"maxnreg": cap} if cap else {})
            yield f"{warps}/{cap}", changed, grid
        return
    for warps in WARPS:
        yield f"{warps}", {**options, "num_warps": warps}, grid


def errors():
    """Relative errors against a float64 token loop, batch 2, 1024 tokens, 6 heads."""
    x = inputs(2, 1024, 6, 2)
    y, final = wkv7(*x)
    dy, dfinal = torch.randn_like(y), torch.randn_like(final)
    got = [y, final, *torch.autograd.grad((y, final), x, (dy, dfinal))]
    x64 = [t.detach().double().requires_grad_() for t in x]
    y, final = loop(*x64, form="loop")
    want = [y, final, *torch.autograd.grad((y, final), x64, (dy.double(), dfinal.double()))]
    names = ("y", "final", "dr", "dlog_w", "dk", "dv", "da", "db", "dstate")
    pairs = zip(names, got, want, strict=True)
    print("errors:", *(f"{n} {((p - q).norm() / q.norm()).item():.2e}" for n, p, q in pairs))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", action="store_true")
    sweep = parser.parse_args().sweep
    began = time.perf_counter()
    x = inputs(1, 64, 1, 1)
    y, final = wkv7(*x)
    torch.autograd.grad((y.float().sum() + final.sum()), x)
    torch.cuda.synchronize()
    print(f"first forward and backward, compilation included: {time.perf_counter() - began:.1f} s")
    errors()
    every, scans = ("", "scan") if sweep else (None, None)
    report("64 x 2048 x 6", inputs(64, 2048, 6, 64), None, every)
    offsets = packed_offsets(131072, 90)
    longest = int((offsets[1:] - offsets[:-1]).max())
    x = inputs(1, 131072, 6, 90)
    report(f"packed 131072, 90 sequences, longest {longest}", x, offsets, scans)
    report("16 x 2048 x 6", inputs(16, 2048, 6, 16), None)
    report("1 x 8192 x 6", inputs(1, 8192, 6, 1), None, scans)


if __name__ == "__main__":
    main()
