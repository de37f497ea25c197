"""PyTorch models on fastconv's kernels."""

from fastconv.extras import require

require("torch", extra="torch")
