"""Weights by formula, reference outputs → the parity table of docs/model.md, rewritten in place.

`python benchmarks/parity.py [--parity-dir DIR] [--check]`; --check changes nothing, and exits with
1 if a difference exceeds its gate.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
PARITY = ROOT / "tests" / "parity"
PAGE = ROOT / "docs" / "model.md"
sys.path.insert(0, str(PARITY))

import formula  # noqa: E402  lies beside the files it describes

from anser.rwkv7 import convert  # noqa: E402
from anser.rwkv7.checkpoint import Checkpoint  # noqa: E402
from anser.rwkv7.dims import ModelDims  # noqa: E402
from anser.rwkv7.reference import ReferenceState, forward  # noqa: E402
from anser.rwkv7.torch.model import RWKV7  # noqa: E402

Weights = Mapping[str, np.ndarray]
# weights and ids [B, T] → logits [B, T, V] and wkv states [B, L, H, N, N]
Run = Callable[[Weights, np.ndarray], tuple[np.ndarray, np.ndarray]]
FILES = ("a", "b", "c", "d", "reverse")


def run_reference(dtype: Any) -> Run:
    def run(weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = ReferenceState.zeros(ModelDims.of(weights), dtype)
        results = [forward(weights, start, row) for row in ids]
        return np.stack([r[0] for r in results]), np.stack([r[1].wkv for r in results])

    return run


def run_torch(dtype: torch.dtype, form: Any) -> Run:
    def run(weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        model = RWKV7.of(weights, form=form).to(dtype)
        with torch.no_grad():
            logits, state = model(torch.from_numpy(ids))
        return logits.numpy(), state.wkv.numpy()

    return run


def run_engine(*, prefill: bool) -> Run:
    from anser.rwkv7.engine import Engine  # needs the compiled extension

    def run(weights: Weights, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        engine = Engine(Checkpoint(ModelDims.of(weights), weights, {}), threads=1)
        state = engine.new_state(len(ids))
        if prefill:
            logits = engine.logits(state, ids)
        else:
            logits = np.stack([engine.step(state, column) for column in ids.T], 1)
        return logits, state.wkv.swapaxes(-1, -2)

    return run


def implementations() -> dict[str, tuple[Run, bool]]:
    """Return every implementation by name, and whether it is float64."""
    found: dict[str, tuple[Run, bool]] = {}
    for dtype in (np.float64, np.float32):
        found[f"reference, {dtype.__name__}"] = run_reference(dtype), dtype is np.float64
    for form in ("loop", "chunked"):
        for dtype in (torch.float64, torch.float32):
            name = str(dtype).removeprefix("torch.")
            found[f"torch {form}, {name}"] = run_torch(dtype, form), dtype is torch.float64
    try:
        found["engine, token by token"] = run_engine(prefill=False), False
        found["engine, prompt at once"] = run_engine(prefill=True), False
    except ImportError as error:
        print(f"without the engine: {error}", file=sys.stderr)
    return found


def differences(run: Run, file: str, folder: Path) -> tuple[float, float | None]:
    """Return the largest difference of logits, and of states where the file holds them."""
    if file == "reverse":
        weights: Weights = convert.read_weights(PARITY / "reverse_L2_rwkv7.pth")
        stored = np.load(PARITY / "real_reverse_L2_expected.npz")
        logits, wkv = run(weights, stored["tokens"])
        expected, states = stored["logits"], stored["state_wkv"]
    else:
        weights = formula.make_weights(file)
        stored = np.load(folder / f"rwkv7_parity_{file}.npz")
        logits, wkv = (z[0] for z in run(weights, stored["tokens"][None]))
        logits = logits[stored["steps"]] if "steps" in stored else logits
        expected = stored["logits"]
        states = stored["state_wkv"] if "state_wkv" in stored else None
    apart = None if states is None else float(np.abs(wkv - states).max())
    return float(np.abs(logits - expected).max()), apart


def gate(file: str, *, is_double: bool) -> float:
    if is_double:
        return 1e-6 if file == "d" else 1e-10
    return {"d": 4e-4, "reverse": 2e-3}.get(file, 5e-5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parity-dir", type=Path, default=PARITY)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = ["| implementation | " + " | ".join(FILES) + " |", "|---|" + "---|" * len(FILES)]
    failed = 0
    for name, (run, is_double) in implementations().items():
        cells = []
        for file in FILES:
            logits, states = differences(run, file, options.parity_dir)
            failed += max(logits, states or 0.0) > gate(file, is_double=is_double)
            cells.append(f"{logits:.1e}" + ("" if states is None else f", {states:.1e}"))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
        print(rows[-1])
    if not options.check:
        begin, end = (f"<!-- parity table: {w} -->" for w in ("begin", "end"))
        table = "\n".join([begin, *rows, end])
        page = re.sub(f"{begin}.*?{end}", lambda _: table, PAGE.read_text(), flags=re.DOTALL)
        PAGE.write_text(page)
    print(f"{failed} differences over their gate")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
