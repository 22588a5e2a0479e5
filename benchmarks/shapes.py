"""The models that are measured: sizes, and random weights, which are as fast as trained ones."""

import numpy as np

from anser.rwkv7.dims import ModelDims

SHAPES = {
    "music-38M": ModelDims(12, 384, 16000, 64, 1536, 64, 64, 32, 96),
    "shipped": ModelDims(12, 384, 1024, 64, 1536, 64, 64, 32, 96),
}


def random_tensors(dims: ModelDims, seed: int = 1) -> dict[str, np.ndarray]:
    """Weights of the right shapes and of about the size that training gives them.

    With those that only the first layer has, and that other programs want.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in dims.shapes().items():
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.1
        tensors[name] = rng.standard_normal(shape, np.float32) * np.float32(scale)
        if name.endswith(("ln1.weight", "ln2.weight", "ln_x.weight", "ln_out.weight")):
            tensors[name] += 1
    for name, shape in dims.optional_shapes().items():
        if name.startswith("blocks.0.") and not name.endswith(("state", "output.bias")):
            tensors[name] = np.full(shape, float(name.endswith("ln0.weight")), np.float32)
    return tensors
