"""A convolution of one tap over joined maps, some of which were enlarged: made before the enlargement.

Interpolation sums places with weights that add up to 1, the convolution sums channels, so they may change places, and
there are fewer pixels before. Heads of segmenters and detectors end so:

    conv(cat(a, interpolate(b)))  =  conv_a(a) + interpolate(conv_b(b))
"""

from __future__ import annotations

from collections.abc import Callable, Container
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fastconv.backends.torch import packing
from fastconv.backends.torch.arrays import Tensor, as_array, as_tensor, shape_of
from fastconv.backends.torch.calls import reason_against
from fastconv.backends.torch.chain import between, is_plain_call, may_write
from fastconv.backends.torch.convolution import convolution, operator_of, options_of
from fastconv.backends.torch.fusion import FusedConvolution, is_convolution
from fastconv.backends.torch.modules import SwappedConv

_CATS = (torch.cat, torch.concat, torch.concatenate)
_SIZED = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")

Part = tuple[Any, dict[str, Any] | None]  # a map, and how it is to be interpolated, if it is


class JoinedConvolution(FusedConvolution):
    """``activation(norm(conv(cat(parts))))``, called with the parts."""

    _slices: tuple[Any, Tensor, list[Tensor]] | None = None

    def __call__(self, parts: tuple[Part, ...], *others: Any) -> Any:
        y = None if others else self._apart(parts)
        return super().__call__(_joined(parts), *others) if y is None else y

    def _apart(self, parts: tuple[Part, ...]) -> Tensor | None:
        """y, or None if these parts gain nothing by it or are not fastconv's to take."""
        if any(tensor is not None and tensor.is_inference() for tensor in self._sources()):
            return None
        weight, bias = self._weights()
        enlarged = _gaining(self.conv, weight, bias, parts)
        if enlarged is None:
            return None
        *of_moved, of_rest = self._sliced(weight, tuple(x.shape[1] for x, _ in parts), enlarged)
        rest, total = _divided(parts, enlarged, of_moved, lambda x, w: self._convolved(x, w, None, None, None))
        return self._convolved(rest, of_rest, bias, self.activation, total)

    def _sliced(self, weight: Tensor, channels: tuple[int, ...], enlarged: list[bool]) -> list[Tensor]:
        """The columns of each part that is enlarged, and then those of all others."""
        state = packing.state_of(weight), channels, enlarged
        if self._slices is None or self._slices[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                self._slices = state, weight, _columns(weight.detach(), channels, enlarged)
        return self._slices[2]

    def _convolved(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None, residual: Tensor | None
    ) -> Tensor:
        last = self.conv.fastconv_is_channels_last(x)
        geometry = self.conv.fastconv_geometry(x, last)
        options = options_of(geometry) | {"activation": activation}
        plan = packing.plan(shape_of(x, last), weight, bias, operator_of(x.ndim - 2, geometry), options)
        added = None if residual is None else as_array(residual, last)
        return as_tensor(plan(as_array(x, last), residual=added), last)


class JoinedInTraining:
    """``conv(cat(parts))``, called with the parts, with gradients."""

    def __init__(self, conv: Any) -> None:
        self.conv = conv

    def __call__(self, parts: tuple[Part, ...]) -> Any:
        weight, bias = self.conv.weight, self.conv.bias
        enlarged = _gaining(self.conv, weight, bias, parts)
        if enlarged is None:
            return self.conv(_joined(parts))
        *of_moved, of_rest = _columns(weight, tuple(x.shape[1] for x, _ in parts), enlarged)
        rest, total = _divided(parts, enlarged, of_moved, lambda x, w: self._convolved(x, w, None))
        return self._convolved(rest, of_rest, bias).add_(total)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        geometry = self.conv.fastconv_geometry(x, self.conv.fastconv_is_channels_last(x))
        return convolution(x, weight, bias, *geometry, False)


def _joined(parts: tuple[Part, ...]) -> Tensor:
    return torch.cat([x if how is None else F.interpolate(x, **how) for x, how in parts], 1)


def _gaining(conv: Any, weight: Tensor, bias: Tensor | None, parts: tuple[Part, ...]) -> list[bool] | None:
    """Which parts are enlarged; None if nothing is gained by taking them apart, or they are not fastconv's to take."""
    if not _is_product(conv, weight) or any(reason_against(x, weight, bias) for x, _ in parts):
        return None
    channels, enlarged = [x.shape[1] for x, _ in parts], [_enlarges(x, how) for x, how in parts]
    moved = sum(n for n, larger in zip(channels, enlarged, strict=True) if larger)
    if any(x.ndim != weight.ndim for x, _ in parts) or sum(channels) != weight.shape[1] or all(enlarged):
        return None
    return enlarged if moved and sum(enlarged) * len(weight) <= moved else None


def _is_product(conv: Any, weight: Tensor) -> bool:
    """Whether each pixel is taken by itself, by all channels."""
    ones = (1,) * (weight.ndim - 2)
    one_tap = tuple(weight.shape[2:]) == ones == tuple(conv.stride) and conv.groups == 1
    return isinstance(conv, SwappedConv) and one_tap and tuple(conv.padding) == (0,) * len(ones)


def _columns(weight: Tensor, channels: tuple[int, ...], enlarged: list[bool]) -> list[Tensor]:
    """The weights of each part that is enlarged, and then those of all others."""
    pairs = list(zip(weight.split(channels, 1), enlarged, strict=True))
    moved = [part.contiguous() for part, larger in pairs if larger]
    return [*moved, torch.cat([part for part, larger in pairs if not larger], 1)]


def _divided(
    parts: tuple[Part, ...], enlarged: list[bool], weights: list[Tensor], convolved: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor | None]:
    """The parts that are not enlarged, joined, and the sum of what the others become."""
    total, plain = None, []
    remaining = iter(weights)
    for (x, how), larger in zip(parts, enlarged, strict=True):
        if not larger or how is None:
            plain.append(x if how is None else F.interpolate(x, **how))
            continue
        y = F.interpolate(convolved(x, next(remaining)), **how)
        total = y if total is None else total.add_(y)
    return plain[0] if len(plain) == 1 else torch.cat(plain, 1), total


def _enlarges(x: Tensor, how: dict[str, Any] | None) -> bool:
    """Whether interpolation makes more pixels."""
    if how is None:
        return False
    asked = how["scale_factor"] if how["size"] is None else how["size"]
    axes = tuple(asked) if isinstance(asked, (tuple, list)) else (asked,) * (x.ndim - 2)
    return bool(prod(axes) > (1 if how["size"] is None else prod(x.shape[2:])))


def join(graph: fx.Graph, modules: dict[str, Any], steps: dict[str, FusedConvolution]) -> None:
    """Give steps whose input is joined of enlarged maps these maps themselves."""
    for node in list(graph.nodes):
        step = steps.get(node.target) if node.op == "call_module" else None
        if type(step) is FusedConvolution and step.padding is None and _takes_parts(graph, node, modules, steps):
            steps[node.target] = JoinedConvolution(step.conv, step.norm, step.activation, step.rest)


def join_in_training(graph: fx.Graph, modules: dict[str, Any], steps: dict[str, Any]) -> None:
    """Make steps of convolutions whose input is joined of enlarged maps."""
    for node in list(graph.nodes):
        conv = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(conv, SwappedConv) or not is_plain_call(node, modules) or not is_convolution(conv):
            continue
        if _is_product(conv, conv.weight) and _takes_parts(graph, node, modules, steps):
            node.target = f"fastconv_{len(steps)}"
            steps[node.target] = JoinedInTraining(conv)


def _takes_parts(graph: fx.Graph, node: fx.Node, modules: dict[str, Any], steps: Container[str]) -> bool:
    """Whether a step's input is joined of enlarged maps, which then take its place."""
    parts = _parts(node, modules, steps)
    if parts is None:
        return False
    cat = node.args[0]
    node.args = (tuple(parts), *node.args[1:])
    for old in (cat, *dict.fromkeys(cat.args[0])):
        if not old.users:
            graph.erase_node(old)
    return True


def _parts(node: fx.Node, modules: dict[str, Any], steps: Container[str]) -> list[Part] | None:
    """What a convolution's input is joined of, if some of it is interpolated and nobody writes to it in between."""
    cat = node.args[0]
    if not isinstance(cat, fx.Node) or cat.op != "call_function" or cat.target not in _CATS or len(cat.users) > 1:
        return None
    options = dict(zip(("tensors", "dim"), cat.args, strict=False)) | cat.kwargs
    if options.keys() != {"tensors", "dim"} or options["dim"] != 1 or not cat.args:
        return None
    maps = options["tensors"]
    if not isinstance(maps, (tuple, list)) or not all(isinstance(x, fx.Node) for x in maps):
        return None
    hows = [_interpolation(x) for x in maps]
    if not any(hows):
        return None
    first = min(x for x, how in zip(maps, hows, strict=True) if how)
    others = [other for other in between(first, node) if other.op != "call_module" or other.target not in steps]
    if any(may_write(other, modules) for other in others):
        return None
    return [(x, None) if how is None else (how.pop("input"), how) for x, how in zip(maps, hows, strict=True)]


def _interpolation(node: fx.Node) -> dict[str, Any] | None:
    """The arguments of an interpolation that nobody else reads."""
    if node.op != "call_function" or node.target is not F.interpolate or len(node.users) > 1:
        return None
    given = dict(zip(("input", *_SIZED), node.args, strict=False)) | node.kwargs
    return {"size": None, "scale_factor": None} | given if "input" in given else None
