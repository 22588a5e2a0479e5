from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def instruction_sets() -> list[str]: ...

class Model:
    def __init__(
        self,
        sizes: Sequence[int],
        tensors: Mapping[str, NDArray[Any]],
        n_threads: int,
        instructions: str = "",
    ) -> None: ...
    def forward(
        self,
        ids: NDArray[np.int64],
        shift: NDArray[np.float32],
        wkv: NDArray[np.float32],
        logits: NDArray[np.float32],
    ) -> None: ...
    @property
    def instructions(self) -> str: ...
