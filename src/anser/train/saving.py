"""A training run ↔ files: the state to resume from, and the finished model."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from anser import vocab
from anser.rwkv7 import checkpoint
from anser.rwkv7.torch.model import RWKV7
from anser.train.config import TrainConfig

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Saving:
    """Saves a run, and resumes it; every file is written whole or not at all."""

    model: RWKV7
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    output: Path
    shards: Path
    step: int = 0  # the first step that is still to be made

    @property
    def training(self) -> Path:
        """The file that holds weights and optimiser of an unfinished run."""
        return self.output.with_suffix(".training")

    def save_unfinished(self, step: int) -> None:
        """Write weights and optimiser, to go on from `step`."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach().cpu().numpy()
            for key in MOMENTS:
                tensors[f"{key}.{name}"] = self.optimizer.state[parameter][key].cpu().numpy()
        metadata = {"step": str(step), **self.config.metadata()}
        checkpoint.write_tensors(self.training, tensors, metadata)

    def resume(self) -> None:
        """Load weights and optimiser if the run was begun before.

        Raises `ValueError` if it was begun with other settings.
        """
        if not self.training.exists():
            return
        tensors, metadata = checkpoint.read_tensors(self.training)
        if {k: v for k, v in metadata.items() if k != "step"} != self.config.metadata():
            raise ValueError(f"{self.training}: begun with other settings. Give another output.")
        self.step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(torch.from_numpy(tensors[f"model.{name}"].copy()))
                state = {
                    key: torch.from_numpy(tensors[f"{key}.{name}"].copy()).to(parameter.device)
                    for key in MOMENTS
                }
                device = parameter.device if parameter.is_cuda else "cpu"
                state["step"] = torch.tensor(float(self.step), device=device)
                self.optimizer.state[parameter] = state
        sys.stdout.write(f"resumed at step {self.step}\n")

    def save_finished(self, results: dict[str, str]) -> None:
        """Write the float32 model with its vocabulary, settings and results."""
        self._save_model(self.output, results)

    def keep(self, step: int) -> None:
        """Write the float32 model as it is after so many steps, to be averaged with others."""
        path = self.output.with_name(f"{self.output.stem}-{step}{self.output.suffix}")
        self._save_model(path, {"train.stopped_after_step": str(step)})

    def _save_model(self, path: Path, results: dict[str, str]) -> None:
        manifest = self.shards / "sha256.txt"
        metadata = {
            "vocab": vocab.fingerprint(),
            "train.data_sha256": manifest.read_text().strip() if manifest.exists() else "",
            **self.config.metadata(),
            **results,
        }
        checkpoint.save(path, self.model.tensors(), metadata)
