"""JAX on the CPU: lax.conv_general_dilated and lax.reduce_window in either layout, compiled by XLA."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..layer import Array, Layer
from ..shapes import out_shape
from ..task import Operands, Task, channels_first, channels_last
from . import Prepared, Unsupported

SPATIAL = "DHW"
Operator = Callable[..., Any]


def start(threads: int) -> dict[str, str]:
    """XLA has taken its number of threads from NPROC and the CPUs that this process may use."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    return {"jax": jax.__version__, "jaxlib": jax.lib.__version__}


def prepare(task: Task, operands: Operands, data_format: str) -> Prepared:
    """Both layouts, forward and backward; a weight lies with its channels where x has them."""
    jax.clear_caches()
    layer, last = task.layer, data_format == "channels_last"
    x, weight, bias, grad_y = operands
    if last:
        x, grad_y = channels_last(x), None if grad_y is None else channels_last(grad_y)
        weight = None if weight is None else np.moveaxis(weight, (0, 1), (-1, -2))
    elif bias is not None:
        bias = bias.reshape(-1, *(1,) * layer.ndim)
    arguments = [jnp.asarray(a) for a in (x, weight, bias) if a is not None]
    run = _pool(layer, last) if layer.pools else _convolution(layer, last)
    if task.backward:
        arguments.append(jnp.asarray(grad_y))
        return Prepared(partial(_compiled, _gradients(run), arguments, several=True), partial(_arrays, last))
    if task.kind == "layer":
        arguments, constants = arguments[:1], arguments[1:]
        run = partial(_with_constants, run, constants)
    return Prepared(partial(_compiled, run, arguments), partial(_arrays, last))


def _with_constants(run: Operator, constants: list[Any], x: Any) -> Any:
    return run(x, *constants)


def _gradients(run: Operator) -> Operator:
    """Of x, weight and bias, from those and grad_y."""

    def gradients(*arguments: Any) -> Any:
        *primals, grad_y = arguments
        return jax.vjp(run, *primals)[1](grad_y)

    return gradients


def _compiled(run: Operator, arguments: list[Any], several: bool = False) -> Callable[[], Any]:
    """The call of what XLA makes of it, which waits for the result, or for `several` of them."""
    compiled = jax.jit(run).lower(*arguments).compile()
    if several:
        return lambda: jax.block_until_ready(compiled(*arguments))
    return lambda: compiled(*arguments).block_until_ready()


def _arrays(last: bool, result: Any) -> tuple[Array | None, ...]:
    """y, or the gradients of x, weight and bias, in PyTorch's shapes."""
    first, *others = map(np.asarray, result if isinstance(result, tuple) else (result,))
    grads: list[Array | None] = []
    if others:
        grads = [np.moveaxis(others[0], (-1, -2), (0, 1)) if last else others[0], None]
    if len(others) == 2:
        grads[1] = others[1].reshape(-1)
    return (channels_first(first) if last else first, *grads)


def _convolution(layer: Layer, last: bool) -> Operator:
    """lax's of a layer; a transposed one as lax has it, which knows no groups.

    Raises
    ------
    Unsupported
        Transposed with groups.
    """
    spatial = SPATIAL[-layer.ndim :]
    dimensions = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C") if last else (f"NC{spatial}", f"OI{spatial}",
                                                                                f"NC{spatial}")  # fmt: skip
    if layer.operator == "conv":
        convolve = partial(lax.conv_general_dilated, window_strides=layer.stride, padding=layer.padding,
                           rhs_dilation=layer.dilation, feature_group_count=layer.groups)  # fmt: skip
    elif layer.groups == 1:
        axes = zip(layer.kernel, layer.dilation, layer.padding, layer.output_padding, strict=True)
        around = [(d * (k - 1) - before, d * (k - 1) - after + extra) for k, d, (before, after), extra in axes]
        convolve = partial(lax.conv_transpose, strides=layer.stride, padding=around, rhs_dilation=layer.dilation,
                           transpose_kernel=True)  # fmt: skip
    else:
        raise Unsupported("transposed with groups")

    def run(x: Any, weight: Any, bias: Any = None) -> Any:
        y = convolve(x, weight, dimension_numbers=dimensions)
        return y if bias is None else y + bias

    return run


def _pool(layer: Layer, last: bool) -> Operator:
    """lax.reduce_window; the windows that ceil_mode adds reach into padding of their own."""
    if layer.operator == "avg_pool" and layer.ceil_mode:
        raise Unsupported("an average whose windows overhang")
    sizes = zip(layer.size, out_shape(layer)[2:], layer.kernel, layer.stride, layer.dilation, layer.padding,
                strict=True)  # fmt: skip
    around = [
        (before, max(after, (out - 1) * s + d * (k - 1) + 1 - size - before))
        for size, out, k, s, d, (before, after) in sizes
    ]

    def across(values: Any, other: Any) -> tuple[Any, ...]:
        return (other, *values, other) if last else (other, other, *values)

    window, strides, dilation = across(layer.kernel, 1), across(layer.stride, 1), across(layer.dilation, 1)
    padding = across(around, (0, 0))
    if layer.operator == "max_pool":
        return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding, None, dilation)
    taps = prod(layer.kernel)
    return lambda x: lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / taps
