"""PyTorch models on fastconv's kernels: one line puts a model's convolutions, pools and products there.

    model = fastconv.backends.torch.optimize(model)

arrays.py sees tensors as arrays on the same memory, operator.py makes an operator known to PyTorch's dispatcher and to
torch.func, convolution.py, linear.py, pooling.py and normalization.py are the operators. modules.py puts them into
modules, packing.py keeps weights packed in evaluation mode, and calls.py tells which calls all this is for.

Traced models run with fewer steps: tracing.py makes graphs, chain.py finds nodes that one kernel does, fusion.py and
quick.py make steps of them in evaluation mode, training.py in training; padding.py and joined.py are about what a
convolution reads. fused.py runs such code as long as it means the same, regions.py finds the modules for it.
"""
# ruff: noqa: E402

from fastconv.extras import require

require("torch", extra="torch")  # before the modules that import it

from fastconv.backends.torch.optimizing import optimize, refresh, restore
from fastconv.backends.torch.reporting import ModuleReport, Report, report

__all__ = ["ModuleReport", "Report", "optimize", "refresh", "report", "restore"]
