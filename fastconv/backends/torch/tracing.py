"""Forwards of modules as graphs: torch.fx, helped over what it stumbles at."""

from __future__ import annotations

import inspect
import operator
import random
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from fastconv.backends.torch.chain import IN_PLACE_OPERATORS, has_hooks
from fastconv.backends.torch.modules import Swapped, own_class

ATTEMPTS = 32  # at tracing a forward, each with one call more left alone
LISTED = "listed"
ITEMS = 64  # of an argument that a loop goes through beside a list of its own


def traced(root: nn.Module, names: tuple[str, ...], training: bool) -> fx.Graph | None:
    """The graph of a forward in either mode, in which modules and functions that cannot be traced are calls.

    One for training must mean the same to gradients and at every call, so that code which leaves some gradients out,
    has others of its own or draws lots is no part of it.
    """
    functions: list[Callable[..., Any]] = []
    leaves: set[nn.Module] = set()
    for _ in range(ATTEMPTS):
        before = attributes_of(root)
        graph, trouble = None, None
        try:
            for module, _, _ in before:
                module.training = training
            with torch.enable_grad(), torch.autocast("cpu", enabled=False), _no_lots() if training else nullcontext():
                graph = _Tracer(names, functions, leaves, training).trace(root)
        except Exception as error:  # whatever code raises when it meets symbols
            graph = None
            trouble = _untraceable(error, {module for module, _, _ in before} - leaves, functions)
        if restored(before):
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


@contextmanager
def _no_lots() -> Iterator[None]:
    """Raises TraceError at the end if the code within drew random numbers, and puts them back."""
    ours, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
        same = random.getstate() == ours and str(np.random.get_state()) == str(numpys)  # noqa: NPY002
        if not same or not torch.equal(torch.get_rng_state(), torchs):
            raise fx.proxy.TraceError("the code draws random numbers while it is traced")
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002
        torch.set_rng_state(torchs)


def attributes_of(root: nn.Module) -> list[tuple[nn.Module, dict[str, Any], list[Any]]]:
    """What `restored` puts back: all attributes of all modules."""
    return [(module, dict(vars(module)), _registered(module)) for module in root.modules()]


def _registered(module: nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """What a module calls its own, its hooks among them, with copies."""
    return [(of, dict(of)) for of in vars(module).values() if isinstance(of, dict)]


def restored(before: list[tuple[nn.Module, dict[str, Any], list[Any]]]) -> bool:
    """Undo what code did to attributes, and tell whether it did anything.

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


def _records_gradients() -> bool:
    """Whether gradients of what is called now are PyTorch's to find: autograd.Function and no_grad switch that off."""
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda ignored: None)(True)
    return torch.is_grad_enabled() and hooks is None and not torch.is_autocast_enabled("cpu")


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

    def __init__(
        self, names: tuple[str, ...], functions: list[Callable[..., Any]], leaves: set[nn.Module], training: bool
    ) -> None:
        super().__init__(autowrap_functions=tuple(functions))
        self._names, self._leaves, self._training = names, leaves, training

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if self._training and not _records_gradients():
            raise fx.proxy.TraceError("the code is not differentiated as it stands")
        return super().create_node(*args, **kwargs)

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

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        """Items of an argument, for a loop that ends with another list: the argument is a list, too, then."""
        if obj.node.op != "placeholder":
            return super().iter(obj)
        obj.node.meta[LISTED] = True
        return self._items(obj)

    def _items(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        for number in range(ITEMS):
            yield obj[number]
        raise fx.proxy.TraceError(f"a loop over {obj.node.name!r} has no end of its own")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        kept = m in self._leaves or isinstance(m, (Swapped, torch.jit.ScriptModule)) or has_hooks(m)
        return kept or super().is_leaf_module(m, module_qualified_name)


def listed_in(graph: fx.Graph) -> set[str]:
    """Names of the arguments that the forward went through as lists; what it took beyond its last turn is left out."""
    listed = {node for node in graph.nodes if node.meta.get(LISTED)}
    for node in reversed(graph.nodes):
        if node.target is operator.getitem and node.args[0] in listed and not node.users:
            graph.erase_node(node)
    return {node.target for node in listed}


def required(forward: Callable[..., Any]) -> tuple[str, ...] | None:
    """Names of the arguments without a default; None if they cannot all be given by position."""
    names = []
    for parameter in list(inspect.signature(forward).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue  # it was traced with none
        if parameter.default is parameter.empty:
            if parameter.kind is parameter.KEYWORD_ONLY:
                return None
            names.append(parameter.name)
    return tuple(names) or None


def compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The function (scope, *arguments) that a graph describes."""
    graph.lint()
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(compile(code.src, "<fused by fastconv>", "exec"), namespace)
    forward: Callable[..., Any] = namespace["forward"]
    return forward
