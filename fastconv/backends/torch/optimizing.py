"""`optimize`, `refresh`, `restore` and `report`: what a user does with a model."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastconv.backends.torch import packing, regions
from fastconv.backends.torch.modules import (
    LEFT,
    MIXINS,
    NAMES,
    Swapped,
    SwappedOperator,
    covered_class,
    own_class,
    swap,
    unswap,
)


def optimize(model: nn.Module, inplace: bool = False, *, fuse: bool = True) -> nn.Module:
    check_module(model)
    if not inplace:
        model = copy.deepcopy(model)
    for name, module in model.named_modules():
        NAMES[module] = name or "the model"
        if (covered := covered_class(type(module))) is not None:
            swap(module, MIXINS[covered])
    regions.forget(model)
    if fuse:
        regions.find(model)
    return model


def check_module(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")


def restore(model: nn.Module) -> nn.Module:
    check_module(model)
    refresh(model)
    regions.forget(model)
    for module in model.modules():
        if isinstance(module, Swapped):
            unswap(module)
    return model


def refresh(model: nn.Module) -> None:
    check_module(model)
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                packing.forget(parameter)
