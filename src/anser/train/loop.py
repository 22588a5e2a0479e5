"""Shards → a trained checkpoint.

Runs on one GPU (bf16 products, float32 state, master weights and optimiser) or on a CPU. Batch k is
made from (seed, k) alone, so a run that is stopped and resumed sees what it would have seen.

    python -m anser.train.loop SHARDS -o model.safetensors --size base --steps 5000
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from anser import vocab
from anser.rwkv7 import checkpoint
from anser.rwkv7.torch.init import initialise
from anser.rwkv7.torch.model import RWKV7
from anser.rwkv7.torch.optim import make_optimizer
from anser.train.config import TrainConfig
from anser.train.examples import Batch, Examples, Spell, batch, spell
from anser.train.shards import load

N_VALID_BATCHES = 6
VALID_SEED = 20_000_003


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes, apart from what decides its result."""

    shards: Path  # folder with train.npz and valid.npz
    output: Path  # the finished model; `<output>.training` is the state to resume from
    device: str = "cpu"
    workers: int = 0  # processes that make batches; 0 = none but this one
    minutes: float = float("inf")  # stop and save after this long
    valid_every: int = 500  # steps
    layout: Spell = spell

    @property
    def training(self) -> Path:
        """The file that holds weights and optimiser of an unfinished run."""
        return self.output.with_suffix(".training")


class _Batches(Dataset[Batch]):
    def __init__(self, examples: Examples, config: TrainConfig, layout: Spell) -> None:
        self._examples, self._config, self._layout = examples, config, layout

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, step: int) -> Batch:
        seed = (self._config.seed, step)
        return batch(self._examples, seed, self._config.ids_per_step, layout=self._layout)


def _on(device: str, made: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return ids, targets, is_answer, is_context and offsets on the device."""
    arrays = (made.ids, made.targets, made.is_answer, made.is_context, made.offsets)
    ids, targets, is_answer, is_context, offsets = (
        torch.from_numpy(a).to(device, non_blocking=True) for a in arrays
    )
    return ids.long(), targets.long(), is_answer, is_context, offsets


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate at a step: linear warm-up, then a cosine down to the final share."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    cosine = 0.5 * (1 + np.cos(np.pi * min(done, 1.0)))
    return float(config.learning_rate * (config.final_share + (1 - config.final_share) * cosine))


def nats_per_note(model: Callable[..., Tensor], batches: list[Batch], device: str) -> float:
    """Return the model's nats per note over the answers of the batches, `end` included."""
    nats, n_notes = 0.0, 0
    with torch.no_grad():
        for made in batches:
            ids, targets, is_answer, _, offsets = _on(device, made)
            nll = functional.cross_entropy(model(ids, offsets).float(), targets, reduction="none")
            nats += float((nll * is_answer).sum())
            n_notes += made.n_notes
    return nats / max(n_notes, 1)


def train(config: TrainConfig, run: Run) -> float | None:
    """Train, resuming where `run.training` left off; return the validation loss when finished.

    Returns None when the time was up first; then `run.training` holds all that is needed to go on.
    """
    torch.manual_seed(config.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    on_gpu = run.device.startswith("cuda")
    model = RWKV7(config.dims(), compute_dtype=torch.bfloat16 if on_gpu else None)
    initialise(model, config.seed)
    model.to(run.device)
    optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
    start = _resume(model, optimizer, config, run)
    if on_gpu:
        for block in model.blocks:
            block.compile()

    def forward(ids: Tensor, offsets: Tensor) -> Tensor:
        return model.packed(ids, offsets)[0]

    valid = Examples(load(run.shards / "valid.npz"))
    valid_batches = [
        batch(valid, (VALID_SEED, i), config.ids_per_step, augment=False, layout=run.layout)
        for i in range(N_VALID_BATCHES)
    ]
    loader = DataLoader(
        _Batches(Examples(load(run.shards / "train.npz")), config, run.layout),
        batch_size=None,
        sampler=range(start, config.steps),  # type: ignore[arg-type]
        num_workers=run.workers,
        prefetch_factor=4 if run.workers else None,
    )
    begun, seen, last_loss = time.monotonic(), 0, torch.zeros(())
    with closing(_Log(config, start)) as log:
        for step, made in zip(range(start, config.steps), loader, strict=True):
            ids, targets, is_answer, is_context, offsets = _on(run.device, made)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step) * group.get("lr_scale", 1.0)
            nll = functional.cross_entropy(forward(ids, offsets).float(), targets, reduction="none")
            weight = is_answer + config.context_weight * is_context
            loss = (nll * weight).sum() / weight.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            last_loss = loss.detach()
            seen += config.ids_per_step
            if step % 50 == 0 or step + 1 == config.steps:
                log.step(step, float(last_loss), seen)
            if (step + 1) % run.valid_every == 0:
                log.valid(step, nats_per_note(forward, valid_batches, run.device))
            if time.monotonic() - begun > 60 * run.minutes and step + 1 < config.steps:
                _save_training(model, optimizer, config, step + 1, run)
                return None
    loss_at_end = nats_per_note(forward, valid_batches, run.device)
    export(model, config, run, {"valid.nats_per_note": f"{loss_at_end:.4f}"})
    sys.stdout.write(f"finished: {loss_at_end:.4f} nats a note on the valid split\n")
    return loss_at_end


class _Log:
    """Lines on standard output: step, loss, speed."""

    def __init__(self, config: TrainConfig, start: int) -> None:
        self._config, self._begun, self._start = config, time.monotonic(), start

    def step(self, step: int, loss: float, seen: int) -> None:
        seconds = time.monotonic() - self._begun
        sys.stdout.write(
            f"step {step + 1}/{self._config.steps} loss {loss:.4f} "
            f"{seen / seconds / 1e3:.1f} k ids/s {seconds:.0f} s\n"
        )
        sys.stdout.flush()

    def valid(self, step: int, loss: float) -> None:
        sys.stdout.write(f"step {step + 1} valid {loss:.4f} nats a note\n")
        sys.stdout.flush()

    def close(self) -> None:
        sys.stdout.flush()


def export(model: RWKV7, config: TrainConfig, run: Run, results: dict[str, str]) -> None:
    """Write the model as a float32 checkpoint with its vocabulary, settings and results."""
    manifest = run.shards / "sha256.txt"
    metadata = {
        "vocab": vocab.fingerprint(),
        "train.data_sha256": manifest.read_text().strip() if manifest.exists() else "",
        **config.metadata(),
        **results,
    }
    checkpoint.save(run.output, model.tensors(), metadata)


def _named_state(model: RWKV7, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter
        for key in ("exp_avg", "exp_avg_sq"):
            yield f"{key}.{name}", optimizer.state[parameter][key]


def _save_training(
    model: RWKV7, optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, run: Run
) -> None:
    tensors = {k: t.detach().cpu().numpy() for k, t in _named_state(model, optimizer)}
    checkpoint.write_tensors(run.training, tensors, {"step": str(step), **config.metadata()})
    sys.stdout.write(f"saved step {step} to {run.training}\n")


def _resume(model: RWKV7, optimizer: torch.optim.Optimizer, config: TrainConfig, run: Run) -> int:
    """Load weights and optimiser if the run was begun before; return the step to go on from."""
    if not run.training.exists():
        return 0
    tensors, metadata = checkpoint.read_tensors(run.training)
    if {k: v for k, v in metadata.items() if k != "step"} != config.metadata():
        raise ValueError(f"{run.training}: begun with other settings. Give another output.")
    step = int(metadata["step"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(tensors[f"model.{name}"].copy()))
            optimizer.state[parameter] = {
                key: torch.from_numpy(tensors[f"{key}.{name}"].copy()).to(run.device)
                for key in ("exp_avg", "exp_avg_sq")
            } | {"step": torch.tensor(float(step), device=run.device)}
    return step


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--size", default="base")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--valid-every", type=int, default=500)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    given = parser.parse_args()
    overrides = {k: float(v) for k, v in (pair.split("=", 1) for pair in given.set)}
    config = TrainConfig.of_size(given.size, steps=given.steps, **overrides)
    run = Run(
        given.shards, given.output, given.device, given.workers, given.minutes, given.valid_every
    )
    train(config, run)


if __name__ == "__main__":
    main()
