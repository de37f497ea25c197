"""The fused code of a module's forward, and when it means the same as the forward itself."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as hooks
from torch.utils import _pytree as pytree

from fastconv.backends.torch.agreement import agree
from fastconv.backends.torch.arrays import Tensor
from fastconv.backends.torch.calls import is_ordinary, is_plain
from fastconv.backends.torch.chain import has_hooks, silenced
from fastconv.backends.torch.fusion import fuse
from fastconv.backends.torch.joined import join
from fastconv.backends.torch.modules import SwappedOperator, own_class
from fastconv.backends.torch.quick import Watch, quick_steps
from fastconv.backends.torch.tracing import attributes_of, compiled, listed_in, required, restored, traced
from fastconv.backends.torch.training import fuse_in_training
from fastconv.backends.torch.turning import Turning, may_turn

_OURS = frozenset(("fastconv_region", "fastconv_training"))  # attributes of a region
PATIENCE = 3  # calls with hooks, after which these are taken for lasting


class Fused:
    """The fused code of a module's forward in one mode.

    Parameters
    ----------
    root : the module
    names : of the arguments that its forward requires; it was traced with the defaults of all others
    listed : those of them that are lists, of as many tensors as in the call that was compared
    code : (scope, *arguments) -> the result
    steps : fused steps, by the names under which the code finds them in its scope
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
    training: bool
    _hooked = 0  # calls in a row
    _silent = True

    def __init__(
        self, root: nn.Module, names: tuple[str, ...], listed: set[str], code: Callable[..., Any],
        steps: dict[str, Any], called: set[str],
    ) -> None:  # fmt: skip
        self._lengths: dict[str, int | None] = dict.fromkeys(listed)
        self.names, self.steps, self._code = names, steps, code
        self._root, self._scope = root, _Scope(root, steps)
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
        return self._code(self._scope, *arguments)

    def accepted(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """The arguments of a call that the code may take, in order; None for any other call."""
        arguments = None if self.refused is not None else self._required(args, kwargs)
        tensors = None if arguments is None else self._tensors(arguments)
        if tensors is None or not all(isinstance(tensor, Tensor) for tensor in tensors):
            return None
        if torch.is_autocast_enabled("cpu") or hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return None
        if not self._is_call_as_traced(root, tensors) or not self._is_as_traced():
            return None
        self._hooked = 0
        return arguments

    @abstractmethod
    def _is_call_as_traced(self, root: nn.Module, tensors: tuple[Tensor, ...]) -> bool:
        """Whether what is wanted of gradients is what the code was made for."""

    def gives_way(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Refuse to be used again, and tell so, if a call, which was no error, has other arguments than were traced, or
        if modules that it does not call have had hooks for some calls."""
        if self.refused is not None:
            return False
        hooked = any(kind is not None and has_hooks(module) for module, kind, _ in self._absorbed)
        self._hooked = self._hooked + 1 if hooked else 0
        if self._required(args, kwargs) is None:
            self.refused = "it is called with other arguments"
        elif self._hooked == PATIENCE:
            self.refused = "modules in it have hooks"
        return self.refused is not None

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
            if module.training is not self.training or (
                kind is not None and (has_hooks(module) or type(module) is not kind)
            ):
                return False
            if module._modules != children:
                return False
        return True

    def first(self, arguments: tuple[Any, ...], forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the module's own forward gives; the code runs before it, on the same numbers and random ones, unheard by
        hooks of what both call, which are to hear of one call.
        """
        if not any(tensor.numel() for tensor in self._tensors(arguments) or ()):
            return forward(*args, **kwargs)  # from which nothing can be seen
        copies, lots = pytree.tree_map(lambda x: x.detach().clone(), arguments), torch.get_rng_state()
        trouble, result, parts = None, None, [part for module in self.left for part in module.modules()]
        try:
            with silenced(parts if self._silent else ()):
                result = self._tried(copies)
        except Exception as error:
            trouble = f"its traced forward fails: {error}"
        finally:
            torch.set_rng_state(lots)
        expected = forward(*args, **kwargs)
        self.agrees = trouble is None and agree((expected, self._state()), result) and agree(arguments, copies)
        self._lengths = {name: len(arguments[self.names.index(name)]) for name in self._lengths}
        if not self.agrees and self._silent and any(map(has_hooks, parts)):
            self._silent = False  # they may have a say in results: the next call compares what they hear, too
        elif not self.agrees:
            self.refused = trouble or "its traced forward gives other results"
        return expected

    def _state(self) -> list[Tensor]:
        """What the code changes beside its arguments."""
        return []

    def _tried(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Tensor]]:
        """What the code gives, and what its state would be then."""
        return self(arguments), []


class FusedInEvaluation(Fused):
    """The code for evaluation mode, without gradients; its steps are fused convolutions.

    Attributes
    ----------
    turning : how it runs on contiguous images, turned to channels_last; None if they are not worth it
    """

    training = False
    _quick: tuple[Watch, _Scope] | None = None

    def __init__(self, *arguments: Any, turns: bool) -> None:
        super().__init__(*arguments)
        self.turning = Turning(self.left) if turns else None

    def __call__(self, arguments: tuple[Any, ...]) -> Any:
        if not self.agrees:
            return self._code(self._scope, *arguments)
        scope = self._quick_scope()
        if self.turning is None:
            return self._code(scope, *arguments)
        return self.turning(lambda taken: self._code(scope, *taken), arguments)

    def _quick_scope(self) -> _Scope:
        """What the code sees while nothing has changed that its steps were planned with."""
        if self._quick is None or not self._quick[0].is_current():
            self._quick = Watch(self.steps.values()), _Scope(self._root, quick_steps(self.steps))
        watch, scope = self._quick
        return scope if watch.is_complete else self._scope

    def _is_call_as_traced(self, root: nn.Module, tensors: tuple[Tensor, ...]) -> bool:
        wanted = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in root.parameters())
        return is_plain(*tensors) and not wanted


class FusedInTraining(Fused):
    """The code for training mode, with gradients; its steps are those of training.py.

    What a forward does in training may hang on numbers that the program changes from step to step, so those that its
    modules keep as attributes are compared with the ones that were traced.
    """

    training = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        own = [vars(module) for module, _, _ in self._absorbed if not isinstance(module, SwappedOperator)]
        self._known = [(attributes, frozenset(attributes) | _OURS) for attributes in own]
        self._settings = [
            (attributes, name, value)
            for attributes in own
            for name, value in attributes.items() if _is_setting(value) and name not in _OURS
        ]  # fmt: skip

    def _is_call_as_traced(self, root: nn.Module, tensors: tuple[Tensor, ...]) -> bool:
        if not torch.is_grad_enabled() or hooks._global_backward_hooks or hooks._global_backward_pre_hooks:
            return False
        if not is_ordinary(*tensors) or not all(own.keys() <= known for own, known in self._known):
            return False
        missing = object()
        return all(own.get(name, missing) == value for own, name, value in self._settings)

    def _state(self) -> list[Tensor]:
        return [buffer.detach() for buffer in self._root.buffers()]

    @torch.no_grad()
    def _tried(self, arguments: tuple[Any, ...]) -> tuple[Any, list[Tensor]]:
        """The running statistics are put back, past the counters by which PyTorch would see writes, and so is all that
        modules keep as attributes."""
        buffers, attributes = list(self._root.buffers()), attributes_of(self._root)
        before = [buffer.clone() for buffer in buffers]
        try:
            result = self(arguments)
            return result, [buffer.clone() for buffer in self._root.buffers()]
        finally:
            restored(attributes)
            for buffer, value in zip(buffers, before, strict=True):
                buffer.data.copy_(value)


class Unfused:
    """What stands for the code of a forward that has nothing to fuse or, for the reason `refused`, is not traced."""

    agrees = False

    def __init__(self, refused: str | None = None, left: Sequence[nn.Module] = ()) -> None:
        self.refused, self.left, self.steps = refused, left, dict[str, Any]()

    def __reduce__(self) -> Any:
        return type(None), ()

    def accepted(self, *_: Any) -> None:
        """No arguments are."""

    def gives_way(self, *_: Any) -> bool:
        """It was never there."""
        return False


def _is_setting(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (bool, int, float, str))


def fused(root: nn.Module) -> FusedInEvaluation | Unfused | None:
    """A module's forward in evaluation mode, traced and fused; None if it cannot be traced."""
    found = _traced(root, training=False)
    if found is None:
        return None
    names, graph, modules = found
    steps = fuse(graph, modules)
    join(graph, modules, steps)
    called, turns = _called(graph, steps), may_turn(graph, modules, steps)
    region = FusedInEvaluation(root, names, listed_in(graph), compiled(graph), steps, called, turns=turns)
    return region if steps else Unfused(left=region.left)


def fused_in_training(root: nn.Module) -> FusedInTraining | Unfused:
    """The same in training mode."""
    found = _traced(root, training=True)
    if found is None:
        return Unfused("its forward cannot be traced in training mode")
    names, graph, modules = found
    steps = fuse_in_training(graph, modules)
    if not steps:
        return Unfused()
    return FusedInTraining(root, names, listed_in(graph), compiled(graph), steps, _called(graph, steps))


def _traced(root: nn.Module, *, training: bool) -> tuple[tuple[str, ...], fx.Graph, dict[str, nn.Module]] | None:
    """Names of a forward's arguments, its graph, and the modules in it."""
    names = required(own_class(root).forward)
    if names is None or "forward" in vars(root) or isinstance(root, torch.jit.ScriptModule):
        return None
    graph = traced(root, names, training)
    return None if graph is None else (names, graph, dict(root.named_modules()))


def _called(graph: fx.Graph, steps: Container[str]) -> set[str]:
    """Names of the modules that a graph calls as they are."""
    return {node.target for node in graph.nodes if node.op == "call_module" and node.target not in steps}


class _Scope:
    """What the code of a graph sees as its module: the fused steps, and all that the traced module has."""

    def __init__(self, root: nn.Module, steps: dict[str, Any]) -> None:
        self.__dict__.update(steps)
        self.__dict__["root"] = root

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["root"], name)
