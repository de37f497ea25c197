"""Stateless operators on NumPy arrays: PyTorch's names, argument order and defaults, forward and backward."""
# ruff: noqa: F403

from fastconv.functional.activation import *
from fastconv.functional.linear import *
from fastconv.functional.loss import *
from fastconv.functional.normalization import *
from fastconv.functional.padding import *
