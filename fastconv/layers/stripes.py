"""Fused networks' depthwise convolutions with their neighbours: run together, stripe by stripe.

A depthwise convolution of channels_last reads and writes much and multiplies little. With the convolution before it and
the 1x1 after it, as blocks of MobileNet have them, its rows are made and read in a near cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeGuard, cast

from fastconv.functional.stripes import PlannedStripes, Stage, StripesByShape
from fastconv.geometry import check_array
from fastconv.layers.base import Array, Layer
from fastconv.layers.conv import Conv2d
from fastconv.layers.fused import Fused, FusedSum, InferenceLayer


class Striped(InferenceLayer):
    """Convolutions one after the other, under the keys "0", "1", ..., by stripes wherever that pays."""

    def __init__(self, convolutions: Iterable[Layer]) -> None:
        for number, convolution in enumerate(convolutions):
            self.add_layer(str(number), convolution)
        self._plans = StripesByShape()

    def forward(self, x: Array, residual: Array | None = None) -> Array:
        plan = self._plan(x) if self._pack else None
        if plan is not None:
            return plan(x, residual=residual)
        *first, last = self._layers.values()
        for layer in first:
            x = layer(x)
        y: Array = last(x, residual=residual)
        return y

    def _plan(self, x: Array) -> PlannedStripes | None:
        check_array(x, "x")
        fits = x.ndim == 4 and x.dtype == self._convolutions[0].weight.dtype
        return self._plans(x.shape, self._stages) if fits else None

    def _stages(self) -> list[Stage]:
        return [
            Stage(conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups, conv.activation)
            for conv in self._convolutions
        ]

    @property
    def _convolutions(self) -> list[Conv2d]:
        return cast(list[Conv2d], list(self._layers.values()))

    def _unlock(self, writeable: bool) -> None:
        super()._unlock(writeable)
        self._plans = StripesByShape()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": None}  # plans are neither copied nor pickled but made anew


def in_stripes(fused: Fused) -> Fused:
    """The same layers, with convolutions joined wherever they may run by stripes."""
    for layer in fused:
        _join_within(layer)
    return Fused(_joined(fused))


def _join_within(layer: Layer) -> None:
    """Join what is within a layer that is itself no run of others; a sum's last layer goes with its body."""
    for name, inner in list(layer._layers.items()):
        if isinstance(inner, Fused) and not (isinstance(layer, FusedSum) and inner is layer.body):
            layer.add_layer(name, in_stripes(inner))
        else:
            _join_within(inner)
    if isinstance(layer, FusedSum):
        *body, layer.last = _joined([*layer.body, layer.last])
        layer.body = Fused(body)


def _joined(layers: Iterable[Layer]) -> list[Layer]:
    """The same layers, runs of convolutions made one."""
    runs: list[list[Layer]] = []
    for layer in layers:
        if runs and _continues(runs[-1], layer):
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return [run[0] if len(run) == 1 else Striped(run) for run in runs]


def _continues(run: list[Layer], layer: Layer) -> bool:
    """Whether it goes on with this layer: a depthwise convolution takes the one before and the 1x1 after it."""
    before = run[-1]
    if not (_may_run(before) and _may_run(layer)):
        return False
    return len(run) == 1 if _is_depthwise(layer) else _is_depthwise(before) and layer.kernel_size == (1, 1)


def _may_run(layer: Layer) -> TypeGuard[Conv2d]:
    """Whether it is a convolution that stripes can do: `Stage` has no more than these, and another forward counts."""
    return (
        isinstance(layer, Conv2d)
        and type(layer).forward is Conv2d.forward
        and (layer.data_format, layer.padding_mode, layer.algorithm) == ("channels_last", "zeros", None)
    )


def _is_depthwise(convolution: Conv2d) -> bool:
    return convolution.groups == convolution.in_channels > 1
