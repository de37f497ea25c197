"""What runs on fastconv in an optimized model, and what does not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules import conv, pooling
from torch.nn.modules.lazy import LazyModuleMixin

from fastconv.backends.torch import regions
from fastconv.backends.torch.fusion import FusedConvolution
from fastconv.backends.torch.modules import LEFT, MIXINS, Swapped, covered_class
from fastconv.backends.torch.optimizing import check_module

_POOLS = (kind for kind in vars(pooling).values() if isinstance(kind, type) and "Pool" in str(kind))
_FAMILIES = (conv._ConvNd, nn.Linear, *_POOLS)


@dataclass(frozen=True)
class ModuleReport:
    """One convolution, pool or linear layer of a model.

    Attributes
    ----------
    name, kind : in `named_modules`, and of its class
    engine : "fastconv" or "torch"
    reason : why it is PyTorch's, or why some calls of it were; "" if there were none
    fused : the modules and functions that it does the work of in evaluation mode
    """

    name: str
    kind: str
    engine: str
    reason: str = ""
    fused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All convolutions, pools and linear layers of a model; printed, it is a table.

    Attributes
    ----------
    modules : a `ModuleReport` each
    refused : name -> why, of modules that were traced but do not run fused in the mode that they are in
    """

    modules: tuple[ModuleReport, ...]
    refused: dict[str, str]

    @property
    def on_torch(self) -> tuple[ModuleReport, ...]:
        """What is PyTorch's, or was in some calls."""
        return tuple(module for module in self.modules if module.reason)

    def __str__(self) -> str:
        rows = [(m.name, m.kind, m.engine, m.reason or _with(m.fused)) for m in self.modules]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
        lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
        lines += [f"{name or 'the model'} does not run fused: {why}" for name, why in self.refused.items()]
        ours = sum(module.engine == "fastconv" for module in self.modules)
        return "\n".join(
            [*lines, f"{ours} of {len(self.modules)} convolutions, pools and linear layers run on fastconv"]
        )


def report(model: nn.Module) -> Report:
    """Tell which convolutions, pools and linear layers run on fastconv, which are left to PyTorch and why.

    Reasons that lie in a call, such as autocast or a bfloat16 input, are known after the first such call.

    Parameters
    ----------
    model : torch.nn.Module, optimized or not

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        If model is not a torch.nn.Module.
    """
    check_module(model)
    names = {module: name for name, module in model.named_modules()}
    fused = dict(_fused_steps(model, names))
    modules = tuple(_module_report(name, module, fused.get(module, ())) for name, module in model.named_modules()
                    if _is_listed(module))  # fmt: skip
    return Report(modules, dict(_refused(model, names)))


def _is_listed(module: nn.Module) -> bool:
    if isinstance(module, _FAMILIES):
        return True
    kind = type(module)
    return kind.__module__.startswith("torch.ao.nn") and ("Conv" in kind.__name__ or "Pool" in kind.__name__)


def _module_report(name: str, module: nn.Module, fused: tuple[str, ...]) -> ModuleReport:
    kind = type(module).__name__
    reason = _reason_against(module)
    if reason is not None:
        return ModuleReport(name, kind, "torch", reason)
    return ModuleReport(name, kind, "fastconv", LEFT.get(module, ""), fused)


def _reason_against(module: Any) -> str | None:
    if not isinstance(module, Swapped):
        if isinstance(module, LazyModuleMixin):
            return "not initialized yet: optimize again after its first call"
        if covered_class(type(module)) is not None and "forward" not in vars(module):
            return "not optimized"
        if type(module).__module__.startswith("torch.ao."):
            return "it is quantized"
        known = next((base for base in MIXINS if isinstance(module, base)), None)
        return "fastconv has no such operator" if known is None else f"it computes otherwise than {known.__name__}"
    weight = getattr(module, "weight", None)
    if weight is None or (weight.dtype in (torch.float32, torch.float64) and weight.device.type == "cpu"):
        return None
    return f"its weight is {str(weight.dtype).removeprefix('torch.')} on {weight.device.type}"


def _fused_steps(model: nn.Module, names: dict[nn.Module, str]) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    for region in regions.regions(model):
        state = region.fastconv_region
        if state is not None and state.refused is None:
            yield from ((step.conv, _names_of(step, names)) for step in state.steps.values())


def _names_of(step: FusedConvolution, names: dict[nn.Module, str]) -> tuple[str, ...]:
    parts = [*([] if step.norm is None else [step.norm]), *step.rest]
    return tuple(names.get(part) or getattr(part, "__name__", type(part).__name__) for part in parts)


def _refused(model: nn.Module, names: dict[nn.Module, str]) -> Iterator[tuple[str, str]]:
    for region in regions.regions(model):
        state = region.fastconv_training if region.training else region.fastconv_region
        if state is None:
            yield names[region], "it is a copy, which is traced by train(), eval() or refresh(model)"
        elif state.refused is not None:
            yield names[region], state.refused


def _with(fused: tuple[str, ...]) -> str:
    return f"with {', '.join(fused)}" if fused else ""
