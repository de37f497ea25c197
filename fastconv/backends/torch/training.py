"""What a traced model does in fewer steps in training: a batch normalization takes in the sum and the activation after
it, a convolution the zeros padded before it. Both are ops with gradients of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from fastconv.backends.torch.arrays import Tensor
from fastconv.backends.torch.calls import reason_against
from fastconv.backends.torch.chain import Chain, is_plain_call, leave_out
from fastconv.backends.torch.fusion import is_convolution, may_be_padded, padding_of
from fastconv.backends.torch.joined import JoinedInTraining, join_in_training
from fastconv.backends.torch.modules import SwappedBatchNorm, is_swapped
from fastconv.backends.torch.normalization import can_follow
from fastconv.backends.torch.padding import Padded, Padding


class FusedNorm:
    """``activation(norm(x) + residual)``, where either may be left out."""

    def __init__(self, norm: Any, activation: str | None, rest: tuple[Callable[..., Any], ...]) -> None:
        self.norm, self.activation, self.rest = norm, activation, rest

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Any:
        if self._takes(x, residual):
            return self.norm.fastconv_normal(x, residual, self.activation)
        y = self.norm(x)
        for step in self.rest:
            y = step(y) if step is not torch.add else y + residual
        return y

    def _takes(self, x: Tensor, residual: Tensor | None) -> bool:
        if self.norm.fastconv_reason_against_batch(x) is not None:
            return False
        return residual is None or (reason_against(residual, x) is None and residual.shape == x.shape)


class PaddedConvolution:
    """``conv(padding(x))``, called with the padding's arguments."""

    def __init__(self, conv: Any, padding: Padding) -> None:
        self.conv, self.padding = conv, padding

    def __call__(self, *arguments: Any) -> Any:
        padded = self.padding(*arguments)
        if not isinstance(padded, Padded):
            return self.conv(padded)
        y = self.conv.fastconv_padded(padded)
        return self.conv(padded.made()) if y is None else y


_KEPT = ("relu", "sigmoid", "tanh")  # whose result PyTorch's own gradient needs, too: nobody may write to it

Step = FusedNorm | PaddedConvolution | JoinedInTraining


def fuse_in_training(graph: fx.Graph, modules: dict[str, nn.Module]) -> dict[str, Step]:
    """Put fused steps into a graph, under names that it calls as modules; returned by these names."""
    steps: dict[str, Step] = {}
    leave_out(graph, modules, (nn.Identity,))
    join_in_training(graph, modules, steps)
    order = {node: place for place, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.target in steps or not is_plain_call(node, modules):
            continue
        if _is_norm(modules[node.target]):
            chain = _NormChain(node, modules, order, steps)
            chain.grow()
            if len(chain.nodes) > 1:
                name = f"fastconv_{len(steps)}"
                steps[name] = chain.replace(graph, name)
        elif is_convolution(modules[node.target]) and may_be_padded(modules[node.target]):
            _take_padding(graph, node, modules, steps)
    return steps


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, SwappedBatchNorm) and is_swapped(module)


def _take_padding(graph: fx.Graph, node: fx.Node, modules: dict[str, nn.Module], steps: dict[str, Step]) -> None:
    """Put a convolution and what pads its input into one step."""
    function = padding_of(node, modules)
    if function is None:
        return
    name, padding = f"fastconv_{len(steps)}", node.args[0]
    steps[name] = PaddedConvolution(modules[node.target], Padding(function))
    with graph.inserting_before(node):
        call = graph.call_module(name, padding.args)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
    graph.erase_node(padding)


class _NormChain(Chain):
    """A batch normalization and what its kernel does after it."""

    def grow(self) -> None:
        """Take what follows, as far as it fits."""
        self._take_sum()
        self._take_activation()

    def replace(self, graph: fx.Graph, name: str) -> FusedNorm:
        """Put the step into the graph."""
        head = self.nodes[0]
        self._put(graph, name, (head.args[0],) if self.residual is None else (head.args[0], self.residual))
        return FusedNorm(self._modules[head.target], self.activation, tuple(self._rest))

    def _may_end_with(self, activation: str) -> bool:
        return can_follow(activation, False) and (self.residual is None or activation in _KEPT)

    def _may_be_summed(self, node: fx.Node) -> bool:
        return _is_norm(self._modules[node.target])
