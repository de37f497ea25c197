"""PyTorch models on fastconv's kernels: one line puts a model's convolutions, pools and products there.

    model = fastconv.backends.torch.optimize(model)

arrays.py sees tensors as arrays on the same memory, operator.py makes an operator known to PyTorch's dispatcher and to
torch.func, convolution.py, linear.py, pooling.py and normalization.py are the operators. modules.py puts them into
modules, packing.py keeps weights packed in evaluation mode, fusion.py, padding.py and regions.py run traced models with
fewer steps there, and calls.py tells which calls all this is for.
"""
# ruff: noqa: E402

from fastconv.extras import require

require("torch", extra="torch")  # before the modules that import it

from fastconv.backends.torch.optimizing import optimize, refresh, restore
from fastconv.backends.torch.reporting import ModuleReport, Report, report

__all__ = ["ModuleReport", "Report", "optimize", "refresh", "report", "restore"]
