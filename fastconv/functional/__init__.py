"""Stateless operators on NumPy arrays: PyTorch's names, argument order and defaults, forward and backward."""
# ruff: noqa: F403

from fastconv.functional.activation import *
from fastconv.functional.adaptive import *
from fastconv.functional.avg_pool import *
from fastconv.functional.concatenate import *
from fastconv.functional.conv import *
from fastconv.functional.deform import *
from fastconv.functional.fold import *
from fastconv.functional.gated import *
from fastconv.functional.global_pool import *
from fastconv.functional.layer_norm import *
from fastconv.functional.layout import *
from fastconv.functional.linear import *
from fastconv.functional.loss import *
from fastconv.functional.lp_pool import *
from fastconv.functional.max_pool import *
from fastconv.functional.normalization import *
from fastconv.functional.padding import *
from fastconv.functional.softmax import *
from fastconv.functional.transposed import *
from fastconv.functional.unpool import *

__all__ = sorted(name for name, value in globals().items() if callable(value) and not name.startswith("_"))
