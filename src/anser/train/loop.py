"""Shards → a trained checkpoint.

Runs on one GPU or several (bf16 products, float32 state, master weights and optimiser) or on a CPU.
Batch k is made from (seed, k) alone, so a run that is stopped and resumed sees what it would have
seen.

    python -m anser.train.loop SHARDS -o model.safetensors --size base --steps 5000
    torchrun --nproc-per-node 2 -m anser.train.loop SHARDS -o model.safetensors ...
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from anser.rwkv7.torch.init import initialise
from anser.rwkv7.torch.model import RWKV7
from anser.rwkv7.torch.optim import make_optimizer
from anser.train.config import TrainConfig
from anser.train.examples import Batch, Examples, Spell, batch, fixed_batches, spell
from anser.train.saving import Saving
from anser.train.shards import load
from anser.train.team import Team

N_VALID = 640  # examples
VALID_SEED = 20_000_003
LOG_EVERY = 50  # steps


@dataclass(frozen=True)
class Run:
    """Where a run reads and writes, apart from what decides its result."""

    shards: Path  # folder with train.npz and valid.npz
    output: Path  # the finished model; beside it, `.training` is the state to resume from
    device: str = "cpu"
    workers: int = 0  # processes that make batches; 0 = none but this one
    minutes: float = float("inf")  # stop and save after this long
    valid_every: int = 500  # steps; the run is saved then, too
    keeps: bool = False  # the weights of every such step, to choose from or to average
    layout: Spell = spell


class _Batches(Dataset[Batch]):
    """What one member of the team sees at each step."""

    def __init__(self, shards: Path, config: TrainConfig, layout: Spell, team: Team) -> None:
        self._examples = Examples(load(shards / "train.npz"))
        self._config, self._layout, self._team = config, layout, team

    def __len__(self) -> int:
        return self._config.steps

    def __getitem__(self, step: int) -> Batch:
        seed = (self._config.seed, step, self._team.rank)
        n_ids = self._config.ids_per_step // self._team.size
        return batch(self._examples, seed, n_ids, layout=self._layout)


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


def nats_per_note(model: RWKV7, batches: list[Batch], device: str) -> float:
    """Return the model's nats per note over the answers of the batches, `end` included."""
    nats, n_notes = 0.0, 0
    model.eval()
    for made in batches:
        with torch.no_grad():
            ids, targets, is_answer, _, offsets = _on(device, made)
            logits = model.packed(ids, offsets)[0].float()
            nll = functional.cross_entropy(logits, targets, reduction="none")
        nats += float((nll * is_answer).sum())
        n_notes += made.n_notes
    model.train()
    return nats / max(n_notes, 1)


def train(config: TrainConfig, run: Run) -> float | None:
    """Train, resuming where the run left off; return the validation loss when finished.

    Returns None when the time was up first; then all that is needed to go on is saved.
    """
    team = Team.join(run.device)
    model, step_model, saving = _begin(config, run, team)
    valid = fixed_batches(
        Examples(load(run.shards / "valid.npz")),
        VALID_SEED,
        N_VALID if team.is_on_gpu else N_VALID // 16,
        config.ids_per_step // team.size,
        layout=run.layout,
    )
    loader = DataLoader(
        _Batches(run.shards, config, run.layout, team),
        batch_size=None,
        sampler=range(saving.step, config.steps),
        num_workers=run.workers,
        prefetch_factor=4 if run.workers else None,
    )
    begun, first = time.monotonic(), saving.step
    for step, made in zip(range(first, config.steps), loader, strict=True):
        loss = step_model(step, made)
        done = step + 1
        if team.is_first and (step % LOG_EVERY == 0 or done == config.steps):
            seconds = time.monotonic() - begun
            speed = (done - first) * config.ids_per_step / seconds / 1e3
            _say(
                f"step {done}/{config.steps} loss {float(loss):.4f} "
                f"{speed:.1f} k ids/s at {seconds:.2f} s"
            )
        if team.is_first and done % run.valid_every == 0 and done < config.steps:
            _say(f"step {done} valid {nats_per_note(model, valid, team.device):.4f} nats a note")
            saving.save_unfinished(done)
            if run.keeps:
                saving.keep(done)
        is_late = time.monotonic() - begun > 60 * run.minutes
        if done < config.steps and team.agrees_to_stop(step, is_late):
            if team.is_first:
                saving.save_unfinished(done)
                _say(f"stopped after step {done}")
            team.leave()
            return None
    loss_at_end = nats_per_note(model, valid, team.device)
    if team.is_first:
        saving.save_finished({"valid.nats_per_note": f"{loss_at_end:.4f}"})
        _say(f"finished: {loss_at_end:.4f} nats a note on the valid split")
    team.leave()
    return loss_at_end


def _begin(
    config: TrainConfig, run: Run, team: Team
) -> tuple[RWKV7, Callable[[int, Batch], Tensor], Saving]:
    """Return the model, what one step does, and where the run is saved, resumed if begun before."""
    torch.backends.cuda.matmul.allow_tf32 = True
    compute = torch.bfloat16 if team.is_on_gpu else None
    model = RWKV7(config.dims(), compute_dtype=compute, dropout=config.dropout)
    initialise(model, config.seed)
    model.to(team.device)
    optimizer = make_optimizer(model, config.learning_rate, config.weight_decay)
    saving = Saving(model, optimizer, config, run.output, run.shards)
    saving.resume()
    if team.is_on_gpu:
        for block in model.blocks:
            block.compile(fullgraph=True)

    def step_model(step: int, made: Batch) -> Tensor:
        torch.manual_seed(config.seed + step * team.size + team.rank)  # of the dropout
        ids, targets, is_answer, is_context, offsets = _on(team.device, made)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step) * group["lr_scale"]
        logits = model.packed(ids, offsets)[0].float()
        nll = functional.cross_entropy(logits, targets, reduction="none")
        weight = is_answer + config.context_weight * is_context
        loss = (nll * weight).sum() / weight.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        team.average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        return loss.detach()

    return model, step_model, saving


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


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
    parser.add_argument("--keep", action="store_true", help="keep the weights at each validation")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings")
    given = parser.parse_args()
    overrides = {k: float(v) for k, v in (pair.split("=", 1) for pair in given.set)}
    config = TrainConfig.of_size(given.size, steps=given.steps, **overrides)
    run = Run(
        given.shards,
        given.output,
        given.device,
        given.workers,
        given.minutes,
        given.valid_every,
        given.keep,
    )
    train(config, run)


if __name__ == "__main__":
    main()
