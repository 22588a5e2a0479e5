"""The settings of a training run; one dial (`size`) gives the rest."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from anser import vocab
from anser.rwkv7.dims import ModelDims
from anser.rwkv7.torch.init import make_dims

# size: layers, width, peak learning rate
_SIZES = {"tiny": (2, 64, 3e-3), "small": (8, 256, 1.2e-3), "base": (12, 384, 9e-4)}
HEAD_SIZE = 64


@dataclass(frozen=True)
class TrainConfig:
    """What decides a run; saved into every checkpoint."""

    n_layer: int
    d_model: int
    learning_rate: float  # at the peak; a cosine takes it down to `final_share` of this
    steps: int
    ids_per_step: int = 131_072  # padded; all devices together
    warmup: int = 100  # steps
    final_share: float = 0.03
    weight_decay: float = 1.0  # ten times what is usual: songs are seen many times over
    dropout: float = 0.1  # share of each layer's outputs that is zeroed
    clip: float = 1.0  # of the gradient's norm
    context_weight: float = 0.3  # of a given id in the loss; an id to be answered weighs 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.d_model % HEAD_SIZE:
            raise ValueError(f"d_model: expected a multiple of {HEAD_SIZE}, found {self.d_model}.")
        if self.steps < 1 or self.ids_per_step < 16:
            raise ValueError("steps and ids_per_step must be positive.")
        if self.ids_per_step % 16:
            raise ValueError(f"ids_per_step: expected a multiple of 16, found {self.ids_per_step}.")

    @classmethod
    def of_size(cls, size: str, **overrides: float) -> TrainConfig:
        """Return the settings of a named size, with any field given instead."""
        if size not in _SIZES:
            raise ValueError(f"size: expected one of {', '.join(_SIZES)}, found {size}.")
        n_layer, d_model, learning_rate = _SIZES[size]
        known = {f.name: f.type for f in fields(cls)}
        unknown = set(overrides) - set(known)
        if unknown:
            raise ValueError(f"unknown setting: {', '.join(sorted(unknown))}.")
        settings = {
            "n_layer": n_layer,
            "d_model": d_model,
            "learning_rate": learning_rate,
            **overrides,
        }
        return cls(**{k: int(v) if known[k] == "int" else v for k, v in settings.items()})  # type: ignore[arg-type]

    def dims(self) -> ModelDims:
        """Return the model's sizes."""
        return make_dims(self.n_layer, self.d_model, vocab.N_VOCAB, head_size=HEAD_SIZE)

    def metadata(self) -> dict[str, str]:
        """Return the settings as text, for a checkpoint's metadata."""
        return {f"train.{key}": str(value) for key, value in asdict(self).items()}
