"""Which calls fastconv takes, and which of them need nothing of PyTorch's dispatcher."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.float64)


def reason_against(x: Any, weight: Tensor | None = None, bias: Tensor | None = None) -> str | None:
    """Why a call is PyTorch's own to make, in words; None if it is fastconv's."""
    if not isinstance(x, Tensor):
        return f"the input is {type(x).__name__}"
    if x.dtype not in _DTYPES:
        return f"the input is {_short(x.dtype)}"
    if x.device.type != "cpu":
        return f"the input is on {x.device.type}"
    if x.layout != torch.strided:
        return f"the input is {_short(x.layout)}"
    if weight is not None and (reason := _reason_against_weights(x, weight, bias)):
        return reason
    return None if torch.compiler.is_compiling() else _reason_against_kind(x, weight, bias)


def _reason_against_weights(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    if weight.dtype != x.dtype or weight.device != x.device:
        return f"the weight is {_short(weight.dtype)} on {weight.device.type}"
    if bias is not None and (bias.dtype != x.dtype or bias.device != x.device):
        return f"the bias is {_short(bias.dtype)} on {bias.device.type}"
    if torch.is_autocast_enabled("cpu"):
        return f"autocast to {_short(torch.get_autocast_dtype('cpu'))}"
    return None


def _reason_against_kind(*tensors: Tensor | None) -> str | None:
    """Subclasses bring operators of their own, and forward-mode gradients are PyTorch's."""
    for tensor in tensors:
        if tensor is not None and type(tensor) not in _PLAIN and not isinstance(tensor, FakeTensor):
            return f"a tensor is {type(tensor).__name__}"
    return "forward-mode gradients" if torch.autograd.forward_ad._current_level >= 0 else None


def _short(name: Any) -> str:
    return str(name).removeprefix("torch.")


def is_ordinary(*tensors: Tensor | None) -> bool:
    """Whether a call is one of PyTorch's eager mode: no tracing, transform or mode sees its ops."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    ):
        return False
    return all(tensor is None or type(tensor) in _PLAIN for tensor in tensors)


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether a call wants nothing but its result: an ordinary one, without a gradient."""
    return is_ordinary(*tensors) and not (
        torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    )


def is_profiled() -> bool:
    """Whether a profiler wants to see ops."""
    return bool(torch.autograd.profiler._is_profiler_enabled)
