"""RWKV-7 and nothing of music: checkpoints, an executable specification, an engine, training."""
