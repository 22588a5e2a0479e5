"""RWKV-7 in PyTorch, for training; needs the extra `train`."""
