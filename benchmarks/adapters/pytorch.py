"""PyTorch: torch.nn.functional on contiguous or channels_last tensors, in inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.layer import Array, Layer, padding_argument, plain

Call = Callable[[], torch.Tensor]
_inference = torch.inference_mode()
MEMORY_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def start(threads: int) -> dict[str, str]:
    """Use so many threads, in inference mode from here on: to enter it in every call would cost microseconds."""
    torch.set_num_threads(threads)
    _inference.__enter__()
    return {"torch": torch.__version__, "cpu capability": torch.backends.cpu.get_cpu_capability()}


def supports(layer: Layer, data_format: str) -> bool:
    """PyTorch has no channels_last of one spatial axis, and pools are padded alike on both sides."""
    if data_format == "channels_last" and layer.ndim not in MEMORY_FORMATS:
        return False
    return layer.symmetric or layer.operator == "conv"


def prepare(
    layer: Layer, arrays: tuple[Any, Any, Any], data_format: str, kind: str
) -> tuple[Call, Callable[[torch.Tensor], Array]]:
    """The call that is timed, and how to read its result."""
    x, weight, bias = map(_tensor, arrays)
    if data_format == "channels_last":
        memory_format = MEMORY_FORMATS[layer.ndim]
        x = x.contiguous(memory_format=memory_format)
        if not layer.pools:
            weight = weight.contiguous(memory_format=memory_format)
    call = functional(layer, x, weight, bias)
    if kind == "layer" and layer.operator == "conv" and layer.symmetric:
        call = packed(layer, x, weight, bias) or call
    return call, lambda y: y.numpy()


def _tensor(array: Array | None) -> Any:
    return None if array is None else torch.from_numpy(array)


def functional(layer: Layer, x: torch.Tensor, weight: Any, bias: Any) -> Call:
    """As a user of torch.nn.functional writes it; causal padding takes a call of its own."""
    operator = getattr(F, f"{layer.operator}{layer.ndim}d")
    stride, padding, dilation = plain(layer.stride), padding_argument(layer), plain(layer.dilation)
    groups, extra = layer.groups, plain(layer.output_padding)
    if layer.operator == "max_pool":
        kernel, ceil = plain(layer.kernel), layer.ceil_mode
        return lambda: operator(x, kernel, stride, padding, dilation, ceil)
    if layer.operator == "avg_pool":
        kernel = plain(layer.kernel)
        return lambda: operator(x, kernel, stride, padding, layer.ceil_mode)
    if layer.operator == "conv_transpose":
        return lambda: operator(x, weight, bias, stride, padding, extra, groups, dilation)
    if layer.symmetric:
        return lambda: operator(x, weight, bias, stride, padding, dilation, groups)
    around = [amount for pair in reversed(layer.padding) for amount in pair]
    return lambda: operator(F.pad(x, around), weight, bias, stride, 0, dilation, groups)


def packed(layer: Layer, x: torch.Tensor, weight: Any, bias: Any) -> Call | None:
    """oneDNN's convolution on weights it has reordered ahead, as torch.compile freezes them; None where it has none."""
    reorder = getattr(torch._C._nn, f"mkldnn_reorder_conv{layer.ndim}d_weight", None)
    if reorder is None or x.dtype != torch.float32:
        return None
    padding = [before for before, _ in layer.padding]
    parameters = (padding, list(layer.stride), list(layer.dilation), layer.groups)
    with contextlib.suppress(RuntimeError):
        ready = reorder(weight.to_mkldnn(), *parameters, x.shape)
        convolve = torch.ops.mkldnn._convolution_pointwise
        return lambda: convolve(x, ready, bias, *parameters, "none", [], "")
    return None
