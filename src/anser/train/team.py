"""The processes that train one model together: one, or one a GPU under torchrun."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import distributed, nn

ASK_EVERY = 20  # steps between two looks at the clock that all agree on


@dataclass(frozen=True)
class Team:
    """One process's place among those that train together."""

    rank: int
    size: int
    device: str

    @classmethod
    def join(cls, device: str) -> Team:
        """Join the processes that torchrun started, or work alone."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(0, 1, device)
        rank = int(os.environ["LOCAL_RANK"])
        if device.startswith("cuda"):
            device = f"cuda:{rank}"
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(distributed.get_rank(), size, device)

    @property
    def is_first(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.rank == 0

    @property
    def is_on_gpu(self) -> bool:
        """Whether the team trains on GPUs."""
        return self.device.startswith("cuda")

    def average_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by its mean over the team, in one exchange."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()

    def agrees_to_stop(self, step: int, wants: bool) -> bool:
        """Return whether any process wants to stop; in a team asked every few steps only."""
        if self.size == 1:
            return wants
        if step % ASK_EVERY:
            return False
        votes = torch.tensor(float(wants), device=self.device)
        distributed.all_reduce(votes)
        return bool(votes > 0)

    def leave(self) -> None:
        """End the work in common."""
        if self.size > 1:
            distributed.barrier()
            distributed.destroy_process_group()
