"""Parts of a model that run fused in evaluation mode: the largest modules whose forward torch.fx can trace.

A region is traced once, what one convolution can do is fused in its graph, and the graph's code runs in the place of
the region's forward as long as that means the same: in evaluation mode, without gradients, hooks or tracing, with the
modules that were traced. It is compared with the module's own forward when it first runs, since tracing cannot see all
that Python code may depend on, and is not used again if they differ.
"""

from __future__ import annotations

import inspect
import operator
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree

from fastconv.backends.torch.arrays import Tensor
from fastconv.backends.torch.calls import is_plain
from fastconv.backends.torch.fusion import IN_PLACE_OPERATORS, FusedConvolution, fuse, has_hooks
from fastconv.backends.torch.modules import Swapped, SwappedConv, own_class, swap, unswap

ATTEMPTS = 32  # at tracing a forward, each with one call more left alone
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
            tensors = None if region is None else region.accepted(self, args, kwargs)
            if tensors is None:
                return own.forward(self, *args, **kwargs)
            return region(tensors) if region.agrees else region.first(tensors, own.forward, self, *args, **kwargs)

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
    whole = region is not None and (not region.steps or _is_made_of(module, region))
    for child in region.left if region is not None and whole else module.children():
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
        self, root: nn.Module, names: tuple[str, ...], code: Callable[..., Any], steps: dict[str, FusedConvolution],
        called: set[str],
    ) -> None:  # fmt: skip
        self.names, self.steps, self._code, self._scope = names, steps, code, _Scope(root, steps)
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

    def __call__(self, tensors: tuple[Tensor, ...]) -> Any:
        return self._code(self._scope, *tensors)

    def accepted(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...] | None:
        """The arguments of a call that the code may take, in order; None for any other call."""
        tensors = None if self.refused is not None else self._required(args, kwargs)
        if tensors is None or not all(isinstance(tensor, Tensor) for tensor in tensors) or not is_plain(*tensors):
            return None
        if torch.is_autocast_enabled("cpu") or hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return None
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in root.parameters()):
            return None
        return tensors if self._is_as_traced() else None

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

    def first(self, tensors: tuple[Tensor, ...], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward gives; the code runs beside it, on the same numbers and random ones."""
        if not any(tensor.numel() for tensor in tensors):
            return forward(*args, **kwargs)  # from which nothing can be seen
        copies, before = tuple(tensor.clone() for tensor in tensors), torch.get_rng_state()
        expected = forward(*args, **kwargs)
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        try:
            self.agrees = agree((expected, tensors), (self(copies), copies))
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
    names = _required(own_class(root).forward)
    if names is None or "forward" in vars(root) or isinstance(root, torch.jit.ScriptModule):
        return None
    graph = _traced(root, names)
    if graph is None:
        return None
    steps = fuse(graph, dict(root.named_modules()))
    called = {node.target for node in graph.nodes if node.op == "call_module"} - set(steps)
    return Fused(root, names, _compiled(graph), steps, called)


def _traced(root: nn.Module, names: tuple[str, ...]) -> fx.Graph | None:
    """The graph of a forward, in which modules and functions that cannot be traced are calls."""
    functions: list[Callable[..., Any]] = []
    leaves: set[nn.Module] = set()
    for _ in range(ATTEMPTS):
        before = [(module, dict(vars(module)), _registered(module)) for module in root.modules()]
        graph, trouble = None, None
        try:
            for module, _, _ in before:
                module.training = False
            graph = _Tracer(names, functions, leaves).trace(root)
        except Exception as error:  # whatever code raises when it meets symbols
            trouble = _untraceable(error, {module for module, _, _ in before} - leaves, functions)
        if _restored(before):
            return None
        if graph is not None or trouble is None or trouble is root:
            return graph
        if isinstance(trouble, nn.Module):
            leaves.add(trouble)
        else:
            functions.append(trouble)
    return None


def _untraceable(error: Exception, modules: set[nn.Module], known: list[Callable[..., Any]]) -> Any:
    """The function that raised an error, if a module's forward called one of its own file's, or else that module."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for place in reversed(range(len(frames))):
        module = frames[place].f_locals.get("self")
        if not isinstance(module, nn.Module) or module not in modules:
            continue
        for caller, callee in pairwise(frames[place:]):
            function = caller.f_globals.get(callee.f_code.co_name)
            of_torch = caller.f_globals.get("__name__", "").partition(".")[0] == "torch"
            if inspect.isfunction(function) and function.__code__ is callee.f_code and not of_torch:
                return module if function in known else function
        return module
    return None


def _registered(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What a module calls its own, with copies."""
    return [(of, dict(of)) for of in (module._parameters, module._buffers, module._modules)]


def _restored(before: list[tuple[nn.Module, dict[str, Any], list[Any]]]) -> bool:
    """Undo what code that was traced did to attributes, and tell whether it did anything.

    It may have counted its calls, kept a symbol, or made a tensor, perhaps of random numbers, that the trace keeps.
    """
    wrote = False
    for module, attributes, registered in before:
        module.training = attributes["training"]
        for now, then in (*registered, (vars(module), attributes)):
            if now.keys() != then.keys() or any(now[name] is not value for name, value in then.items()):
                now.clear()
                now.update(then)
                wrote = True
    return wrote


class _Symbol(fx.Proxy):
    """A symbol that knows ``x += y`` and the like for writes to x."""


def _writes(name: str) -> Callable[[Any, Any], Any]:
    target = getattr(operator, name)
    return lambda symbol, other: symbol.tracer.create_proxy("call_function", target, (symbol, other), {})


for _name in IN_PLACE_OPERATORS:
    setattr(_Symbol, f"__{_name}__", _writes(_name))


class _Tracer(fx.Tracer):
    """Traces a forward with symbols for what it requires and defaults for the rest.

    Modules with hooks, and others that are given as leaves, stay calls, and so do the given functions.
    """

    proxy_buffer_attributes = True  # or writes to buffers would be made, not traced

    def __init__(self, names: tuple[str, ...], functions: list[Callable[..., Any]], leaves: set[nn.Module]) -> None:
        super().__init__(autowrap_functions=tuple(functions))
        self._names, self._leaves = names, leaves

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        symbols = [self.create_proxy("placeholder", name, (), {}) for name in self._names]
        return own_class(self.root).forward, [self.root, *symbols]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, nn.Module):  # an argument of a function that stays a call
            return self.create_node("get_attr", self.path_of_module(a), (), {})
        if isinstance(a, dict) and is_dataclass(a) and not isinstance(a, type):  # of which torch.fx makes a plain dict
            parts = {part.name: self.create_arg(getattr(a, part.name)) for part in fields(a)}
            return self.create_node("call_function", type(a), (), parts)
        return super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kept = m in self._leaves or isinstance(m, (Swapped, torch.jit.ScriptModule)) or has_hooks(m)
        return kept or super().is_leaf_module(m, module_qualified_name)


def _required(forward: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of the arguments without a default; None if they cannot all be given by position."""
    names = []
    for parameter in list(inspect.signature(forward).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        if parameter.default is parameter.empty:
            if parameter.kind is parameter.KEYWORD_ONLY:
                return None
            names.append(parameter.name)
    return tuple(names) or None


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The function (scope, *arguments) that a graph describes."""
    graph.lint()
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<fused by fastconv>", "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward


class _Scope:
    """What the code of a graph sees as its module: the fused steps, and all that the traced module has."""

    def __init__(self, root: nn.Module, steps: dict[str, FusedConvolution]) -> None:
        self.__dict__.update(steps)
        self.__dict__["root"] = root

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["root"], name)
