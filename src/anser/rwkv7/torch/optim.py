"""Model → AdamW with RWKV-7's parameter groups.

Source: BlinkDL/RWKV-LM, RWKV-v7/train_temp/src/model.py (configure_optimizers) and train.py.
"""

from typing import Any

import torch
from torch import nn

BETAS = (0.9, 0.99)
EPS = 1e-18  # the official value: RWKV-7's small gradients are not to be damped


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters into three groups; `lr_scale` is for schedules that set lr anew.

    Weight decay is for the 2-D `.weight` alone: decaying the others costs much of the quality.
    The decay's bias w0 learns twice as fast. Frozen parameters are left out.
    """
    decayed, fast, other = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("att.w0"):
            fast.append(parameter)
        elif name.endswith(".weight") and parameter.ndim == 2:
            decayed.append(parameter)
        else:
            other.append(parameter)
    groups = [
        {"params": decayed, "lr": lr, "lr_scale": 1.0, "weight_decay": weight_decay},
        {"params": fast, "lr": 2 * lr, "lr_scale": 2.0, "weight_decay": 0.0},
        {"params": other, "lr": lr, "lr_scale": 1.0, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over `parameter_groups`, fused into one kernel a step where there is a GPU."""
    fused = any(p.is_cuda for p in model.parameters())
    groups = parameter_groups(model, lr, weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS, fused=fused)
