"""Which steps of a traced model one convolution does: a norm after it, a sum with a residual, an activation.

In evaluation mode a batch normalization is one multiply-add a channel, which goes into the weight and bias before it:
``scale = gamma / sqrt(var + eps)``, ``shift = beta - mean * scale``. Activation and sum are the convolution's epilogue.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastconv.backends.torch import packing
from fastconv.backends.torch.arrays import Tensor, as_array, as_tensor, shape_of
from fastconv.backends.torch.calls import is_profiled, reason_against
from fastconv.backends.torch.chain import Chain, is_plain_call, leave_out
from fastconv.backends.torch.convolution import operator_of, options_of
from fastconv.backends.torch.linear import planned_linear, reason_against_product
from fastconv.backends.torch.modules import SwappedConv, SwappedConvTranspose, SwappedLinear, is_swapped, own_class
from fastconv.backends.torch.padding import Padded, Padding
from fastconv.functional.planned import PlannedConv

_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)  # in evaluation mode
_PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)


class FusedConvolution:
    """``activation(norm(conv(padding(x))) + residual)``, where all but conv may be left out."""

    def __init__(
        self, conv: Any, norm: Any, activation: str | None, rest: tuple[Callable[..., Any], ...],
        padding: Padding | None = None,
    ) -> None:  # fmt: skip
        self.conv, self.norm, self.activation, self.rest, self.padding = conv, norm, activation, rest, padding
        self._folded: tuple[Any, Tensor, Tensor, list[Any]] | None = None

    def __call__(self, x: Tensor, residual: Tensor | None = None, *others: Any) -> Any:
        """y of the padding's arguments, x and others."""
        return self.of_padded(x if self.padding is None else self.padding(x, *others), residual)

    def of_padded(self, padded: Any, residual: Tensor | None) -> Any:
        """y of what the padding gives."""
        with torch.profiler.record_function("fastconv::fused_convolution") if is_profiled() else nullcontext():
            try:
                y = self._fused(padded, residual)
            except (TypeError, ValueError):  # what does not fit is told by the module that it does not fit
                y = None
        if y is not None:
            return y
        return self._one_by_one(padded.made() if isinstance(padded, Padded) else padded, residual)

    def _fused(self, padded: Tensor | Padded, residual: Tensor | None) -> Tensor | None:
        """y, or None if fastconv does not take this call."""
        found = self.planned(padded, residual)
        if found is None:
            return None
        (plan, last), x = found, padded.x if isinstance(padded, Padded) else padded
        if residual is None:
            return as_tensor(plan(as_array(x, last)), last)
        return as_tensor(plan(as_array(x, last), residual=as_array(residual, last)), last)

    def planned(self, padded: Tensor | Padded, residual: Tensor | None) -> tuple[PlannedConv, bool] | None:
        """The plan of a call, and whether its arrays are channels_last; None if fastconv does not take it."""
        x = padded.x if isinstance(padded, Padded) else padded
        if any(tensor is not None and tensor.is_inference() for tensor in self._sources()):
            return None  # which count no writes
        weight, bias = self._weights()
        ndim = weight.ndim - 2
        if reason_against(x, weight, bias) is not None or x.ndim != ndim + 2:
            return None
        if residual is not None and (reason_against(residual, weight) is not None or residual.ndim != x.ndim):
            return None
        last = self.conv.fastconv_is_channels_last(x)
        geometry = self.conv.fastconv_geometry(x, last)
        if isinstance(padded, Padded):
            geometry = (geometry[0], padded.beside(geometry[1]), *geometry[2:])
        options = options_of(geometry) | {"activation": self.activation}
        plan = packing.plan(shape_of(x, last), weight, bias, operator_of(ndim, geometry), options)
        return None if residual is not None and shape_of(residual, last) != plan.y_shape else (plan, last)

    def _one_by_one(self, x: Tensor, residual: Tensor | None) -> Any:
        """The same by the steps that were fused."""
        y = self.conv(x)
        if self.norm is not None:
            y = self.norm(y)
        for step in self.rest:
            y = step(y) if step is not torch.add else y + residual
        return y

    def _sources(self) -> tuple[Tensor | None, ...]:
        conv, norm = self.conv, self.norm
        if norm is None:
            return conv.weight, conv.bias
        return conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var

    def _weights(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the norm in them, computed in float64 and rounded once, of the tensors of now."""
        conv, norm, sources = self.conv, self.norm, self._sources()
        if norm is None:
            return conv.weight, conv.bias
        state = norm.eps, *map(packing.state_of, sources)
        if self._folded is None or self._folded[0] != state:
            storages = [tensor.untyped_storage() for tensor in sources if tensor is not None]
            self._folded = state, *_fold(conv, norm), storages
        return self._folded[1:3]


class FusedLinear(FusedConvolution):
    """The same of a linear layer."""

    def _fused(self, padded: Tensor | Padded, residual: Tensor | None) -> Tensor | None:
        x = padded.made() if isinstance(padded, Padded) else padded
        if any(tensor is not None and tensor.is_inference() for tensor in self._sources()):
            return None
        weight, bias = self._weights()
        if reason_against(x, weight, bias) is not None or reason_against_product(x, weight) is not None:
            return None
        y_shape = (*x.shape[:-1], weight.shape[0])
        if residual is not None and (reason_against(residual, weight) is not None or residual.shape != y_shape):
            return None
        return planned_linear(x, weight, bias, self.activation, residual)


@torch.inference_mode(False)  # whose tensors count no writes
@torch.no_grad()
def _fold(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of norm(conv(x)) in evaluation mode."""
    weight, dtype = conv.weight.detach().double(), conv.weight.dtype
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    if isinstance(conv, SwappedConvTranspose):  # weight (C_in, C_out / groups, *kernel)
        by_group = weight.unflatten(0, (conv.groups, -1))
        weight = (by_group * scale.view(conv.groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)
    else:
        weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return weight.to(dtype), shift.to(dtype)


def fuse(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[str, FusedConvolution]:
    """Put fused convolutions into a graph, under names that it calls as modules; returned by these names."""
    fused: dict[str, FusedConvolution] = {}
    leave_out(graph, modules, _NOTHING)
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if is_plain_call(node, modules) and is_convolution(modules[node.target]):
            chain = _ConvolutionChain(node, modules, order, fused)
            chain.grow()
            if len(chain.nodes) > 1 or chain.padding is not None:
                name = f"fastconv_{len(fused)}"
                fused[name] = chain.replace(graph, name)
    return fused


class _ConvolutionChain(Chain):
    """A convolution and what its weights, its padding and its epilogue can do."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.norm: nn.Module | None = None
        self.padding: Callable[..., Any] | None = None

    def grow(self) -> None:
        """Take what follows, as far as it fits."""
        conv = self._modules[self.nodes[0].target]
        if may_be_padded(conv):
            self.padding = padding_of(self.nodes[0], self._modules)
        after = self._only_user()
        if after is not None and is_plain_call(after, self._modules) and _folds(self._modules[after.target], conv):
            self.norm = self._modules[after.target]
            self.nodes.append(after)
        if not isinstance(conv, SwappedConvTranspose):
            self._take_sum()
        self._take_activation()

    def replace(self, graph: fx.Graph, name: str) -> FusedConvolution:
        """Put the fused convolution into the graph."""
        conv = self.nodes[0]
        padded = () if self.padding is None else (conv.args[0],)
        x, *others = (*padded, conv)[0].args
        operands = (x,) if self.residual is None and not others else (x, self.residual, *others)
        self._put(graph, name, operands, *padded)
        module = self._modules[conv.target]
        kind = FusedLinear if isinstance(module, SwappedLinear) else FusedConvolution
        pads = None if self.padding is None else Padding(self.padding)
        return kind(module, self.norm, self.activation, tuple(self._rest), pads)

    def _may_be_summed(self, node: fx.Node) -> bool:
        module = self._modules[node.target]
        if isinstance(module, tuple(_NORMS.values())) and isinstance(node.args[0], fx.Node):
            before = node.args[0]
            if len(before.users) != 1 or not is_plain_call(before, self._modules):
                return False
            conv = self._modules[before.target]
            return is_convolution(conv) and not isinstance(conv, SwappedConvTranspose) and _folds(module, conv)
        return is_convolution(module) and not isinstance(module, SwappedConvTranspose)


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution or linear layer of ours whose weights are its own."""
    if not (isinstance(module, (SwappedConv, SwappedLinear)) and is_swapped(module)):
        return False
    bias = module._parameters.get("bias")
    return packing.is_kept_up(module._parameters.get("weight")) and bias is module.bias and packing.is_kept_up(bias)


def may_be_padded(conv: Any) -> bool:
    """Whether zeros around a convolution's input may as well be its own padding."""
    return isinstance(conv, SwappedConv) and not isinstance(conv, SwappedConvTranspose) and conv.padding_mode == "zeros"


def padding_of(conv: fx.Node, modules: dict[str, nn.Module]) -> Callable[..., Any] | None:
    """What is called right before a convolution, for nobody else, and may pad its input: F.pad, a module that pads with
    zeros, or a function that could not be traced."""
    node = conv.args[0]
    if not isinstance(node, fx.Node) or len(node.users) != 1 or node.next is not conv:
        return None
    if node.op == "call_module":
        module = modules.get(node.target)  # None: a convolution that is fused already
        return module if type(module) in _PADS and is_plain_call(node, modules) else None
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    if node.target is F.pad:
        symbolic = any(isinstance(value, fx.Node) for value in node.kwargs.values())
        return None if symbolic else partial(F.pad, **node.kwargs)
    is_own = inspect.isfunction(node.target) and not (node.target.__module__ or "torch").startswith("torch.")
    return node.target if is_own and not node.kwargs else None


def _folds(module: nn.Module, conv: Any) -> bool:
    """Whether a module is a batch normalization of a convolution's channels that knows its statistics."""
    if isinstance(conv, SwappedLinear) or own_class(module) is not _NORMS[conv.weight.ndim - 2]:
        return False
    if module.num_features != conv.out_channels:
        return False
    tensors = module.weight, module.bias, module.running_mean, module.running_var
    if tensors[2] is None or tensors[3] is None or (tensors[0] is None) != (tensors[1] is None):
        return False
    return all(t is None or (t.dtype == conv.weight.dtype and not t.is_inference()) for t in tensors)
