"""PyTorch: torch.nn.functional on contiguous or channels_last tensors, in inference mode."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..layer import Array, Layer, padding_argument, plain
from ..task import Operands, Task
from . import Prepared, Unsupported

Call = Callable[[], Any]
_inference = torch.inference_mode()
MEMORY_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def start(threads: int) -> dict[str, str]:
    """Use so many threads, in inference mode from here on: to enter it in every call would cost microseconds."""
    torch.set_num_threads(threads)
    _inference.__enter__()
    return {"torch": torch.__version__, "torch cpu capability": torch.backends.cpu.get_cpu_capability()}


def prepare(task: Task, operands: Operands, data_format: str) -> Prepared:
    """PyTorch has no channels_last of one spatial axis, and pools are padded alike on both sides."""
    layer = task.layer
    if data_format == "channels_last" and layer.ndim not in MEMORY_FORMATS:
        raise Unsupported("channels_last of one spatial axis")
    if not layer.symmetric and layer.operator != "conv":
        raise Unsupported("asymmetric padding")
    x, weight, bias, grad_y = (None if a is None else torch.from_numpy(a) for a in operands)
    if data_format == "channels_last":
        move = partial(torch.Tensor.contiguous, memory_format=MEMORY_FORMATS[layer.ndim])
        x, weight, grad_y = (None if a is None else move(a) for a in (x, weight, grad_y))
    if task.backward and layer.pools:
        build = partial(_pool_backward, layer, x, grad_y)
    elif task.backward:
        build = partial(_backward, layer, x, weight, bias, grad_y)
    elif task.kind == "layer" and not layer.pools:
        build = partial(_quickest, layer, x, weight, bias)
    else:
        build = partial(_functional, layer, x, weight, bias)
    return Prepared(build, _arrays)


def _arrays(result: Any) -> tuple[Array | None, ...]:
    tensors = result if isinstance(result, (tuple, list)) else (result,)
    return tuple(None if tensor is None else tensor.numpy() for tensor in tensors)


def _functional(layer: Layer, x: Any, weight: Any, bias: Any) -> Call:
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
    around = _around(layer)
    return lambda: operator(F.pad(x, around), weight, bias, stride, 0, dilation, groups)


def _around(layer: Layer) -> list[int]:
    """Padding as F.pad wants it, the last axis first."""
    return [amount for pair in reversed(layer.padding) for amount in pair]


def _quickest(layer: Layer, x: Any, weight: Any, bias: Any) -> Call:
    """The quickest of the functional call and of those with weights that are packed ahead."""
    calls = [_functional(layer, x, weight, bias), *_packed(layer, x, weight, bias)]
    return min(calls, key=tried) if len(calls) > 1 else calls[0]


def _packed(layer: Layer, x: Any, weight: Any, bias: Any) -> Iterator[Call]:
    """oneDNN's convolution on weights that it has reordered ahead, as torch.compile freezes them, where it has one."""
    reorder = getattr(torch._C._nn, f"mkldnn_reorder_conv{layer.ndim}d_weight", None)
    if reorder is None or x.dtype != torch.float32 or layer.operator != "conv" or not layer.symmetric:
        return
    padding = [before for before, _ in layer.padding]
    parameters = (padding, list(layer.stride), list(layer.dilation), layer.groups)
    with contextlib.suppress(RuntimeError):
        ready = reorder(weight.to_mkldnn(), *parameters, x.shape)
        convolve = torch.ops.mkldnn._convolution_pointwise
        convolve(x, ready, bias, *parameters, "none", [], "")
        yield lambda: convolve(x, ready, bias, *parameters, "none", [], "")


def tried(call: Call, times: int = 3) -> float:
    """The least seconds of a few calls."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _backward(layer: Layer, x: Any, weight: Any, bias: Any, grad_y: Any) -> Call:
    """What autograd calls, without autograd."""
    transposed = layer.operator == "conv_transpose"
    padding, inside = [before for before, _ in layer.padding], slice(None)
    if not layer.symmetric:
        (before, _), *others = layer.padding
        assert not others
        inside, padding = slice(before, before + layer.size[0]), [0]
        x = F.pad(x, _around(layer))
    options = ([layer.out_channels] if bias is not None else None, layer.stride, padding, layer.dilation, transposed,
               layer.output_padding, layer.groups, [True, True, bias is not None])  # fmt: skip
    backward = torch.ops.aten.convolution_backward

    def call() -> tuple[Any, ...]:
        grad_x, grad_weight, grad_bias = backward(grad_y, x, weight, *options)
        return grad_x[..., inside], grad_weight, grad_bias

    return call


def _pool_backward(layer: Layer, x: Any, grad_y: Any) -> Call:
    """The same for pools; those of one axis are PyTorch's of two."""
    kernel, stride, dilation = layer.kernel, layer.stride, layer.dilation
    padding = tuple(before for before, _ in layer.padding)
    one = layer.ndim == 1
    if one:
        x, grad_y = x.unsqueeze(-2), grad_y.unsqueeze(-2)
        kernel, stride, dilation, padding = (1, *kernel), (1, *stride), (1, *dilation), (0, *padding)
    operators, ndim = torch.ops.aten, max(layer.ndim, 2)
    if layer.operator == "avg_pool":
        averages = getattr(operators, f"avg_pool{ndim}d_backward")
        call = partial(averages, grad_y, x, kernel, stride, padding, layer.ceil_mode, True, None)
    else:
        forward = getattr(operators, f"max_pool{ndim}d_with_indices")
        _, indices = forward(x, kernel, stride, padding, dilation, layer.ceil_mode)
        maxima = getattr(operators, f"max_pool{ndim}d_with_indices_backward")
        call = partial(maxima, grad_y, x, kernel, stride, padding, dilation, layer.ceil_mode, indices)
    return (lambda: call().squeeze(-2)) if one else call
