"""What a user does with a model: `optimize` it, `refresh` it after writes that cannot be seen, `restore` it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fastconv.backends.torch import packing, regions
from fastconv.backends.torch.modules import MIXINS, NAMES, Swapped, covered_class, swap, unswap


def optimize(model: nn.Module, inplace: bool = False, *, fuse: bool = True) -> nn.Module:
    """Let a model's convolutions, pools and linear layers run on fastconv, with the same results but for rounding.

    Taken are the modules Conv1d to Conv3d, ConvTranspose1d to ConvTranspose3d, MaxPool, AvgPool, LPPool,
    AdaptiveMaxPool, AdaptiveAvgPool, Linear and, in training mode, BatchNorm1d to BatchNorm3d (in channels_last, where
    PyTorch's own is as fast, with what follows it alone), in float32 or float64 on the CPU; everything else, and every
    other call of theirs, stays PyTorch's (`report` tells). Modules stay instances of their classes, with the same
    parameters, buffers, hooks and keys; the model can be trained, copied, pickled, compiled and exported as before.

    In evaluation mode each weight is packed at its first call, and again after it was written to. What PyTorch does not
    count as a write, one to ``weight.data`` or through ``weight.numpy()``, takes `refresh`. With `fuse`, the largest
    modules whose forward torch.fx can trace run fused. In evaluation mode, when nothing needs a gradient, a convolution
    takes in zeros padded right before it, and a batch normalization, a sum and an activation after it, and a linear
    layer the last two; the weights themselves are left alone; contiguous images are copied to channels_last for a
    module of eight fused convolutions or more, and its results back. In training mode a convolution takes in the zeros,
    a batch normalization the sum and the activation. A fused forward first runs beside the module's own, and is used
    from then on if both agree; in training also only while numbers and flags that its modules keep are those of the
    trace. While a model is being optimized no other thread may call modules, since torch.fx watches the calls of all.

    fastconv has a number of threads of its own: `fastconv.set_num_threads`. Pickles of a whole optimized model need
    fastconv where they are read; `restore` the model before, or save its `state_dict`.

    Parameters
    ----------
    model : torch.nn.Module, in either mode
    inplace : bool, default False
        Whether to change this model; by default a deep copy is.
    fuse : bool, default True

    Returns
    -------
    torch.nn.Module
        The model, or its copy. Optimizing it again takes in what was added to it since.

    Raises
    ------
    TypeError
        If model is not a torch.nn.Module.
    """
    check_module(model)
    if not inplace:
        with torch.inference_mode(False):  # whose own tensors count no writes, so that nothing can be kept of them
            model = copy.deepcopy(model)
    regions.forget(model)
    for name, module in model.named_modules():
        NAMES[module] = name or "the model"
        covered = None if "forward" in vars(module) else covered_class(type(module))
        if covered is not None:
            swap(module, MIXINS[covered])
    if fuse:
        regions.find(model)
    return model


def refresh(model: nn.Module) -> nn.Module:
    """Forget what was made of the weights and code of an optimized model, and make it anew when it is needed.

    For writes to weights that PyTorch does not count, and for attributes that a fused forward depends on.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If model is not a torch.nn.Module.
    """
    check_module(model)
    for parameter in model.parameters():
        packing.forget(parameter)
    regions.renew(model)
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undo `optimize`, in place: every module has its own class and forward again, and nothing is kept of weights.

    Returns
    -------
    torch.nn.Module
        The model itself.

    Raises
    ------
    TypeError
        If model is not a torch.nn.Module.
    RuntimeError
        If a module was given another class since, as by a parametrization.
    """
    check_module(model)
    for parameter in model.parameters():
        packing.forget(parameter)
    regions.forget(model)
    for module in model.modules():
        if isinstance(module, Swapped):
            unswap(module)
    return model


def check_module(model: Any) -> None:
    """Raise TypeError unless this is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
