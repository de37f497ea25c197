"""PyTorch models on fastconv's kernels."""

from fastconv.extras import require

require("torch", extra="torch")

from fastconv.backends.torch.optimizing import optimize, refresh, restore

__all__ = ["optimize", "refresh", "restore"]
