"""Contiguous images, turned to channels_last for a region of many convolutions, which are faster there.

Images among the arguments are copied once, and results back, but those that the code itself makes channels_last.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fastconv import functional
from fastconv.backends.torch.agreement import agree
from fastconv.backends.torch.arrays import TO_LAST, Tensor, as_tensor, is_channels_last
from fastconv.backends.torch.chain import may_write, silenced
from fastconv.backends.torch.fusion import FusedConvolution
from fastconv.backends.torch.modules import Swapped

FEWEST = 8  # convolutions that make up for the copies
_DTYPES = (torch.float32, torch.float64)

Code = Callable[[tuple[Any, ...]], Any]


def may_turn(graph: fx.Graph, modules: dict[str, nn.Module], steps: dict[str, Any]) -> bool:
    """Whether a graph's fused steps are worth it, and nothing in it writes to its arguments."""
    convolutions = [step for step in steps.values() if type(step) is FusedConvolution]
    images = sum(step.conv.weight.ndim == 4 for step in convolutions)
    return images >= FEWEST and not _writes_to_arguments(graph, modules, steps)


def _writes_to_arguments(graph: fx.Graph, modules: dict[str, nn.Module], steps: Container[str]) -> bool:
    """Whether a node may, or may write to what might be a view of one."""
    views: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "call_module" and (node.target in steps or isinstance(modules.get(node.target), Swapped)):
            continue  # it gives new memory
        if node.op == "placeholder":
            views.add(node)
        elif not views.isdisjoint(node.all_input_nodes):
            if may_write(node, modules):
                return True
            views.add(node)
    return False


class Turning:
    """A region's code on turned images, once it has given what it gives on the images themselves.

    Parameters
    ----------
    left : modules that the code calls as they are, whose hooks do not hear of the comparison

    Attributes
    ----------
    agrees : whether it has
    refused : whether it will not be tried again
    """

    def __init__(self, left: Sequence[nn.Module]) -> None:
        self.agrees = self.refused = False
        self._left = left
        self._lie: list[tuple[int | None, bool]] = []  # of each result: the argument that it is, whether it lies last

    def __call__(self, code: Code, arguments: tuple[Any, ...]) -> Any:
        """What the code gives."""
        images = None if self.refused else _turned(arguments)
        if images is None:
            return code(arguments)
        if not self.agrees:
            return self._first(code, arguments, images)
        try:
            return self._turned_back(code(images), arguments)
        except Exception:  # a view, say, that only contiguous tensors have
            result = code(arguments)
            self.refused = True
            return result

    def _first(self, code: Code, arguments: tuple[Any, ...], images: tuple[Any, ...]) -> Any:
        result, given = code(arguments), pytree.tree_leaves(arguments)
        leaves = pytree.tree_leaves(result)
        self._lie = [
            (next((place for place, x in enumerate(given) if x is leaf), None), _lies_last(leaf)) for leaf in leaves
        ]
        try:
            with silenced(part for module in self._left for part in module.modules()):
                agrees = not any(map(is_dataclass, leaves)) and agree(result, code(images))
        except Exception:
            agrees = False
        self.agrees, self.refused = agrees, not agrees
        return result

    def _turned_back(self, result: Any, arguments: tuple[Any, ...]) -> Any:
        """The result as it would lie without turning."""
        leaves, structure = pytree.tree_flatten(result)
        given = pytree.tree_leaves(arguments)
        copies = {
            id(leaf): _contiguous(leaf)
            for leaf, (same, lies_last) in zip(leaves, self._lie, strict=True)
            if same is None and not lies_last and isinstance(leaf, Tensor) and leaf.layout is torch.strided
        }
        return pytree.tree_unflatten(
            [
                copies.get(id(leaf), leaf) if same is None else given[same]
                for leaf, (same, _) in zip(leaves, self._lie, strict=True)
            ],
            structure,
        )


def _turned(arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """The arguments of a call, contiguous images among them in channels_last; None if there are none."""
    leaves, structure = pytree.tree_flatten(arguments)
    if not any(map(_is_turnable, leaves)):
        return None
    found: tuple[Any, ...] = pytree.tree_unflatten([_last(x) if _is_turnable(x) else x for x in leaves], structure)
    return found


def _is_turnable(x: Any) -> bool:
    """Whether it is a contiguous image which does not lie both ways."""
    image = _is_image(x) and x.is_contiguous()
    return bool(image and x.shape[1] > 1 and x.shape[2:].numel() > 1)


def _is_image(x: Any) -> bool:
    return type(x) is Tensor and x.ndim == 4 and x.is_cpu and x.dtype in _DTYPES and x.numel() > 0


def _lies_last(x: Any) -> bool:
    """Whether the code makes its channels lie last by itself."""
    return _is_image(x) and not x.is_contiguous() and is_channels_last(x)


def _last(x: Tensor) -> Tensor:
    return as_tensor(functional.to_channels_last(x.numpy(force=True)), True)


def _contiguous(x: Tensor) -> Tensor:
    if _lies_last(x):
        return torch.from_numpy(functional.to_channels_first(x.numpy(force=True).transpose(TO_LAST[4])))
    return x.contiguous()
