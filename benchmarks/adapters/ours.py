"""fastconv itself: the functional API, and a plan with packed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import fastconv
from fastconv import functional as ff

from ..layer import Array, Layer, padding_argument, plain
from ..task import Operands, Task, channels_first, channels_last, deformation, operands
from . import Prepared

Call = Callable[[], Any]


def start(threads: int) -> dict[str, str]:
    """Use so many threads; FASTCONV_ISA has been read."""
    fastconv.set_num_threads(threads)
    return {"fastconv": fastconv.__version__, "numpy": np.__version__, **fastconv.runtime.info()}


def prepare(task: Task, arrays: Operands, data_format: str, algorithm: str | None = None) -> Prepared:
    """Every operator in either layout."""
    last = data_format == "channels_last"
    if last:
        grad_y = None if arrays.grad_y is None else channels_last(arrays.grad_y)
        arrays = arrays._replace(x=channels_last(arrays.x), grad_y=grad_y)
    if task.layer.deforms:
        return Prepared(partial(_deformable, task, arrays, data_format), partial(_arrays_of_deformable, last=last))
    policy = {"data_format": data_format} | ({} if algorithm is None else {"algorithm": algorithm})
    if task.backward:
        build = partial(_backward, task.layer, arrays, policy)
    elif task.layer.pools:
        build = partial(_pool, task, arrays.x, policy)
    elif task.kind == "layer":
        build = partial(_planned, task.layer, arrays, policy)
    else:
        build = partial(_functional, task.layer, arrays, policy)
    return Prepared(build, partial(_arrays, last=last))


def _arrays(result: Any, last: bool) -> tuple[Array | None, ...]:
    """y, or grad_x and what else there is, whose shapes depend on no layout."""
    first, *others = result if isinstance(result, tuple) else (result,)
    return (channels_first(first) if last else first, *others)


def _deformable(task: Task, arrays: Operands, data_format: str) -> Call:
    """Forward, or the gradients of x, offset, weight, bias and mask, as a user writes it."""
    layer, (x, weight, bias, grad_y), (offset, mask) = task.layer, arrays, deformation(task)
    assert weight is not None
    if data_format == "channels_last":
        offset, mask = channels_last(offset), None if mask is None else channels_last(mask)
    options: dict[str, Any] = {
        "stride": plain(layer.stride), "padding": padding_argument(layer), "dilation": plain(layer.dilation),
        "mask": mask, "data_format": data_format,
    }  # fmt: skip
    if grad_y is not None:
        need = (True, True, True, bias is not None, mask is not None)
        return partial(ff.deform_conv2d_backward, grad_y, x, offset, weight, need=need, **options)
    return partial(ff.deform_conv2d, x, offset, weight, bias, **options)


def _arrays_of_deformable(result: Any, last: bool) -> tuple[Array | None, ...]:
    """y, or the gradients; those of x, offset and mask lie as x does."""
    if not isinstance(result, tuple):
        return _arrays(result, last)
    grad_x, grad_offset, grad_weight, grad_bias, grad_mask = result
    if last:
        grad_x, grad_offset = channels_first(grad_x), channels_first(grad_offset)
        grad_mask = None if grad_mask is None else channels_first(grad_mask)
    return grad_x, grad_offset, grad_weight, grad_bias, grad_mask


def _parameters(layer: Layer) -> tuple[Any, ...]:
    """What follows weight and bias, in order, as users write it."""
    stride, padding, dilation = plain(layer.stride), padding_argument(layer), plain(layer.dilation)
    if layer.operator == "conv":
        return stride, padding, dilation, layer.groups
    return stride, padding, plain(layer.output_padding), layer.groups, dilation


def _functional(layer: Layer, arrays: Operands, policy: dict[str, Any]) -> Call:
    """As a user of fastconv.functional writes it."""
    operator, parameters = getattr(fastconv, f"{layer.operator}{layer.ndim}d"), _parameters(layer)
    x, weight, bias, _ = arrays
    return lambda: operator(x, weight, bias, *parameters, **policy)


def _planned(layer: Layer, arrays: Operands, policy: dict[str, Any]) -> Call:
    """As a server writes it, and as a layer after eval() does."""
    x, weight, bias, _ = arrays
    plan_for = getattr(fastconv, f"plan_{layer.operator}{layer.ndim}d")
    plan = plan_for(x.shape, weight, bias, *_parameters(layer), **policy)
    return lambda: plan(x)


def _pool(task: Task, x: Array, policy: dict[str, Any]) -> Call:
    layer = task.layer
    operator = getattr(fastconv, f"{layer.operator}{layer.ndim}d")
    kernel, stride, padding = plain(layer.kernel), plain(layer.stride), padding_argument(layer)
    dilated = (plain(layer.dilation),) if layer.operator == "max_pool" else ()
    call = partial(operator, x, kernel, stride, padding, *dilated, layer.ceil_mode, data_format=policy["data_format"])
    return partial(call, out=call()) if task.kind == "layer" else call


def _backward(layer: Layer, arrays: Operands, policy: dict[str, Any]) -> Call:
    """The gradients of x, weight and bias; of a pool that of x, a maximum's with its indices at hand."""
    x, weight, bias, grad_y = arrays
    operator = getattr(fastconv, f"{layer.operator}{layer.ndim}d_backward")
    options: dict[str, Any] = {"stride": plain(layer.stride), "padding": padding_argument(layer)}
    if layer.pools:
        options |= {"kernel_size": plain(layer.kernel), "ceil_mode": layer.ceil_mode}
        options["data_format"] = policy["data_format"]
        if layer.operator == "avg_pool":
            return partial(operator, grad_y, x.shape, **options)
        options["dilation"] = plain(layer.dilation)
        _, indices = getattr(fastconv, f"max_pool{layer.ndim}d")(x, return_indices=True, **options)
        return partial(operator, grad_y, x, indices, **options)
    options |= {"dilation": plain(layer.dilation), "groups": layer.groups, **policy}
    if layer.operator == "conv_transpose":
        options["output_padding"] = plain(layer.output_padding)
    return partial(operator, grad_y, x, weight, need=(True, True, bias is not None), **options)


def error_ratios(session: object, task: Task, data_format: str) -> tuple[float, float]:
    """Relative L2 and maximum error of the policy in force over those of "direct", both against float64.

    The larger of those for operands of normal distribution and for an x after a ReLU; 1 where the bits are the same.
    """
    normal = operands(task)
    ratios = [_error_ratios(task, data_format, normal), (1.0, 1.0)]
    if ratios[0] != (1.0, 1.0):
        ratios.append(_error_ratios(task, data_format, normal._replace(x=np.maximum(normal.x, 0))))
    return max(ratio for ratio, _ in ratios), max(ratio for _, ratio in ratios)


def _error_ratios(task: Task, data_format: str, arrays: Operands) -> tuple[float, float]:
    def results(task: Task, arrays: Operands, algorithm: str | None) -> tuple[Array | None, ...]:
        prepared = prepare(task, arrays, data_format, algorithm)
        return prepared.arrays(prepared.build()())

    ours, direct = results(task, arrays, None), results(task, arrays, "direct")
    if all(_same(a, b) for a, b in zip(ours, direct, strict=True)):
        return 1.0, 1.0
    wide = Operands._make(None if a is None else a.astype(np.float64) for a in arrays)
    exact = results(replace(task, dtype="float64"), wide, "direct")
    pairs = [(_errors(a, e), _errors(b, e)) for a, b, e in zip(ours, direct, exact, strict=True) if not _same(a, b)]
    l2, highest = (max(float(ours[i] / max(direct[i], 1e-300)) for ours, direct in pairs) for i in (0, 1))
    return l2, highest


def _same(a: Array | None, b: Array | None) -> bool:
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _errors(y: Any, exact: Any) -> tuple[float, float]:
    difference = y - exact
    return float(np.linalg.norm(difference)), float(np.abs(difference).max())
