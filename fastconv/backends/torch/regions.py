"""Parts of a model that run fused in evaluation mode: the largest modules whose forward torch.fx can trace.

A region is traced once, what one convolution can do is fused in its graph, and the graph's code runs in the place of
the region's forward as long as that means the same: in evaluation mode, without gradients, hooks or tracing, with the
modules that were traced. It is compared with the module's own forward when it first runs, since tracing cannot see all
that Python code may depend on, and is not used again if they differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree

from fastconv.backends.torch.arrays import Tensor
from fastconv.backends.torch.calls import is_plain
from fastconv.backends.torch.chain import has_hooks
from fastconv.backends.torch.fusion import FusedConvolution, fuse
from fastconv.backends.torch.joined import join
from fastconv.backends.torch.modules import Swapped, SwappedConv, own_class, swap, unswap
from fastconv.backends.torch.quick import Watch, quick_steps
from fastconv.backends.torch.tracing import compiled, listed_in, required, traced

AGREE = 2**13  # eps of the largest value: some for each layer of a deep network; other code is off by far more


class Region(Swapped):
    """A module whose forward may run fused. Its copies are traced when they are next put into evaluation mode."""

    fastconv_region: Fused | None = None

    @classmethod
    def fastconv_members(cls, own: Any) -> dict[str, Any]:
        @wraps(own.forward)  # the signature stays
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return own.forward(self, *args, **kwargs)
            region = self.fastconv_region
            taken = None if region is None else region.accepted(self, args, kwargs)
            if region is None or taken is None:
                result = own.forward(self, *args, **kwargs)
                if region is not None and not self.training and region.gives_way(args, kwargs):
                    _find_within(self)
                return result
            return region(taken) if region.agrees else region.first(taken, own.forward, self, *args, **kwargs)

        return super().fastconv_members(own) | {"forward": forward}

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        if not mode and self.fastconv_region is None:
            self.fastconv_region = fused(self)
        return self


def find(module: nn.Module) -> None:
    """Make regions of the largest parts of a module that can be traced and have something to fuse."""
    if not any(isinstance(part, SwappedConv) for part in module.modules()):
        return
    region = fused(module)
    if region is None or (region.steps and not _is_made_of(module, region)):
        _find_within(module)
        return
    for child in region.left:
        find(child)


def _find_within(module: nn.Module) -> None:
    """Make regions of parts of a module that is itself none."""
    for child in module.children():
        find(child)


def _is_made_of(module: nn.Module, region: Fused) -> bool:
    """Make a region of a module; False if its class lets no other inherit from it."""
    try:
        swap(module, Region)
    except TypeError:
        return False
    module.fastconv_region = region
    return True


def forget(model: nn.Module) -> None:
    """Leave no region in a model."""
    for module in regions(model):
        unswap(module)
        module.__dict__.pop("fastconv_region", None)


def regions(model: nn.Module) -> Iterator[nn.Module]:
    """All regions in a model."""
    return (module for module in list(model.modules()) if isinstance(module, Region))


class Fused:
    """The fused code of a module's forward.

    Parameters
    ----------
    root : the module
    names : of the arguments that its forward requires; it was traced with the defaults of all others
    listed : those of them that are lists, of as many tensors as in the call that was compared
    code : (scope, *arguments) -> the result
    steps : fused convolutions, by the names under which the code finds them in its scope
    called : names of the modules that the code calls as they are

    Attributes
    ----------
    steps : as given
    left : the modules that the code calls as they are
    agrees : whether the code has given what the module's forward did
    refused : why it is not used, if it is not
    """

    agrees = False
    refused: str | None = None

    def __init__(
        self, root: nn.Module, names: tuple[str, ...], listed: set[str], code: Callable[..., Any],
        steps: dict[str, FusedConvolution], called: set[str],
    ) -> None:  # fmt: skip
        self._lengths: dict[str, int | None] = dict.fromkeys(listed)
        self.names, self.steps, self._code = names, steps, code
        self._root, self._scope = root, _Scope(root, steps)
        self._quick: tuple[Watch, _Scope] | None = None
        parameters = list(inspect.signature(own_class(root).forward).parameters.values())[1:]
        self._positions = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self.left = [module for name, module in root.named_modules() if name in called]
        self._absorbed: list[tuple[Any, Any, dict[str, Any]]] = [
            (module, None if module is root else type(module), dict(module._modules))  # the root's hooks are called
            for name, module in root.named_modules()
            if not any(name == leaf or name.startswith(f"{leaf}.") for leaf in called)
        ]

    def __reduce__(self) -> Any:
        return type(None), ()  # a copy of the module has other modules, so it is traced anew

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        return self._code(self._quick_scope() if self.agrees else self._scope, *arguments)

    def _quick_scope(self) -> _Scope:
        """What the code sees while nothing has changed that its steps were planned with."""
        if self._quick is None or not self._quick[0].is_current():
            self._quick = Watch(self.steps.values()), _Scope(self._root, quick_steps(self.steps))
        watch, scope = self._quick
        return scope if watch.is_complete else self._scope

    def accepted(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The arguments of a call that the code may take, in order; None for any other call."""
        arguments = None if self.refused is not None else self._required(args, kwargs)
        tensors = None if arguments is None else self._tensors(arguments)
        if tensors is None or not all(isinstance(tensor, Tensor) for tensor in tensors) or not is_plain(*tensors):
            return None
        if torch.is_autocast_enabled("cpu") or hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return None
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in root.parameters()):
            return None
        return arguments if self._is_as_traced() else None

    def gives_way(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Refuse to be used again, and tell so, if a call, which was no error, has other arguments than were traced."""
        if self.refused is None and self._required(args, kwargs) is None:
            self.refused = "it is called with other arguments"
            return True
        return False

    def _tensors(self, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """What must be tensors: arguments, and the items of lists; None if a list has not the length it had."""
        if not self._lengths:
            return arguments
        tensors: list[Any] = []
        for name, argument in zip(self.names, arguments, strict=True):
            if name not in self._lengths:
                tensors.append(argument)
            elif isinstance(argument, (list, tuple)) and self._lengths[name] in (None, len(argument)):
                tensors += argument
            else:
                return None
        return tuple(tensors)

    def _required(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The required arguments of a call; None if it is wrong or gives another argument anything but its default."""
        if not kwargs and len(args) == len(self.names):
            return args
        given = dict(zip(self._positions, args, strict=False))
        if len(given) != len(args) or not given.keys().isdisjoint(kwargs):
            return None
        given.update(kwargs)
        for name in given.keys() - set(self.names):
            if name not in self._defaults or given[name] is not self._defaults[name]:
                return None
        return tuple(given[name] for name in self.names) if given.keys() >= set(self.names) else None

    def _is_as_traced(self) -> bool:
        for module, kind, children in self._absorbed:
            if module.training or (kind is not None and (has_hooks(module) or type(module) is not kind)):
                return False
            if module._modules != children:
                return False
        return True

    def first(self, arguments: tuple[Any, ...], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward gives; the code runs beside it, on the same numbers and random ones."""
        if not any(tensor.numel() for tensor in self._tensors(arguments) or ()):
            return forward(*args, **kwargs)  # from which nothing can be seen
        copies, before = pytree.tree_map(torch.clone, arguments), torch.get_rng_state()
        expected = forward(*args, **kwargs)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        try:
            self.agrees = agree((expected, arguments), (self(copies), copies))
            self._lengths = {name: len(arguments[self.names.index(name)]) for name in self._lengths}
            if not self.agrees:
                self.refused = "its traced forward gives other results"
        except Exception as error:
            self.refused = f"its traced forward fails: {error}"
        finally:
            torch.set_rng_state(after)
        return expected


def agree(expected: Any, actual: Any) -> bool:
    """Whether two results are the same but for rounding."""
    ours, theirs = pytree.tree_flatten(actual), pytree.tree_flatten(expected)
    return ours[1] == theirs[1] and all(map(_agrees, theirs[0], ours[0]))


def _agrees(expected: Any, actual: Any) -> bool:
    if not isinstance(expected, Tensor):
        if type(expected) is type(actual) and is_dataclass(expected):
            return agree(vars(expected), vars(actual))
        return type(expected) is type(actual) and bool(expected == actual)
    if not isinstance(actual, Tensor) or expected.shape != actual.shape or expected.dtype != actual.dtype:
        return False
    if not expected.dtype.is_floating_point:
        return torch.equal(expected, actual)
    largest = expected.nan_to_num(posinf=0, neginf=0).abs().max().item() if expected.numel() else 0
    tolerance = AGREE * torch.finfo(expected.dtype).eps * largest
    return torch.allclose(actual, expected, rtol=0, atol=tolerance, equal_nan=True)


def fused(root: nn.Module) -> Fused | None:
    """A module's forward, traced and fused; None if it cannot be traced."""
    names = required(own_class(root).forward)
    if names is None or "forward" in vars(root) or isinstance(root, torch.jit.ScriptModule):
        return None
    graph = traced(root, names)
    if graph is None:
        return None
    modules = dict(root.named_modules())
    steps = fuse(graph, modules)
    join(graph, modules, steps)
    called = {node.target for node in graph.nodes if node.op == "call_module"} - set(steps)
    return Fused(root, names, listed_in(graph), compiled(graph), steps, called)


class _Scope:
    """What the code of a graph sees as its module: the fused steps, and all that the traced module has."""

    def __init__(self, root: nn.Module, steps: dict[str, Any]) -> None:
        self.__dict__.update(steps)
        self.__dict__["root"] = root

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["root"], name)
