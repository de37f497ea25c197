"""Steps of a traced model that follow each other so that one kernel does them: a sum with a residual, an activation."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

_SUMS = {"call_function": (operator.add, operator.iadd, torch.add), "call_method": ("add", "add_")}
_IN_PLACE_SUMS = (operator.iadd, "add_")
_PURE = ("torch", "math", "builtins")  # packages whose functions tell by their names whether they write
IN_PLACE_OPERATORS = (
    "iadd", "isub", "imul", "imatmul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor", "ilshift",
    "irshift",
)  # fmt: skip
_FUNCTIONS = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu6: "relu6", F.leaky_relu: "leaky_relu",
    F.elu: "elu", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid", torch.tanh: "tanh", F.tanh: "tanh",
    F.gelu: "gelu", F.silu: "silu", F.hardswish: "hardswish",
}  # fmt: skip
_METHODS = {
    "relu": "relu", "relu_": "relu", "sigmoid": "sigmoid", "sigmoid_": "sigmoid", "tanh": "tanh", "tanh_": "tanh",
}  # fmt: skip
# What they may be called with for an epilogue to be the same.
_OPTIONS = {"inplace": (False, True), "negative_slope": (0.01,), "alpha": (1,), "approximate": ("none",)}
_MODULES: dict[type[nn.Module], Callable[[Any], str | None]] = {
    nn.ReLU: lambda module: "relu",
    nn.ReLU6: lambda module: "relu6",
    nn.Hardtanh: lambda module: "relu6" if (module.min_val, module.max_val) == (0, 6) else None,
    nn.LeakyReLU: lambda module: "leaky_relu" if module.negative_slope == 0.01 else None,
    nn.ELU: lambda module: "elu" if module.alpha == 1 else None,
    nn.Sigmoid: lambda module: "sigmoid",
    nn.Tanh: lambda module: "tanh",
    nn.GELU: lambda module: "gelu" if module.approximate == "none" else "gelu_tanh",
    nn.SiLU: lambda module: "silu",
    nn.Hardswish: lambda module: "hardswish",
}


class Chain:
    """A node and those after it that its kernel does, too, each the only user of the one before.

    Parameters
    ----------
    head : the first node
    modules : of the traced model, by name
    order : of all nodes; chains that replace theirs are entered
    fused : names of steps that chains were replaced by
    """

    def __init__(
        self, head: fx.Node, modules: dict[str, nn.Module], order: dict[fx.Node, int], fused: Container[str]
    ) -> None:
        self.nodes, self._modules, self._order, self._fused = [head], modules, order, fused
        self.activation: str | None = None
        self.residual: fx.Node | None = None
        self._rest: list[Callable[..., Any]] = []

    @abstractmethod
    def _may_be_summed(self, node: fx.Node) -> bool:
        """Whether a module's call, the only one to read its input, may be what a chain like this one adds to."""

    def _may_end_with(self, activation: str) -> bool:
        """Whether the kernel does this activation after what it does already."""
        return True

    def _take_sum(self) -> None:
        after = self._only_user()
        if after is not None and self._adds(after):
            self.nodes.append(after)
            self._rest.append(torch.add)

    def _take_activation(self) -> None:
        after = self._only_user()
        if after is not None and (found := activation_of(after, self._modules)) is not None:
            name, step = found
            if self._may_end_with(name):
                self.activation = name
                self._rest.append(step)
                self.nodes.append(after)

    def _put(self, graph: fx.Graph, name: str, operands: tuple[Any, ...], *before: fx.Node) -> None:
        """Put one call in the place of all nodes, and of those before: where the residual is known, otherwise at the
        first one."""
        place = next(node for node in self.nodes if self.residual is None or self._precedes(self.residual, node))
        with graph.inserting_before(place):
            call = graph.call_module(name, operands)
        self._order[call] = self._order[place]
        self.nodes[-1].replace_all_uses_with(call)
        for node in reversed([*before, *self.nodes]):
            graph.erase_node(node)

    def _precedes(self, node: fx.Node, other: fx.Node) -> bool:
        return self._order[node] < self._order[other]

    def _only_user(self) -> fx.Node | None:
        users = list(self.nodes[-1].users)
        return users[0] if len(users) == 1 else None

    def _adds(self, node: fx.Node) -> bool:
        """Whether a node adds something to this chain's result that is known in time; it is the residual then."""
        if node.target not in _SUMS.get(node.op, ()) or len(node.args) != 2 or node.kwargs:
            return False
        first, second = node.args
        residual = second if first is self.nodes[-1] else first
        if not isinstance(residual, fx.Node) or residual is self.nodes[-1]:
            return False
        if node.target in _IN_PLACE_SUMS and first is residual and not self._is_passing(residual):
            return False
        head, own = self.nodes[0], {*self.nodes, node}
        if not self._precedes(residual, head) and self._is_new(residual):
            return False
        if any(may_write(between, self._modules) for between in between(head, node) if between not in own):
            return False  # to what is read at another time than in the module
        self.residual = residual
        return True

    def _is_passing(self, node: fx.Node) -> bool:
        """Whether a value is new memory that one node alone reads, so that nobody sees what is written there."""
        if node.op == "call_module" and node.target in self._fused:
            return len(node.users) == 1
        return self._is_new(node)

    def _is_new(self, node: fx.Node) -> bool:
        """Whether a later chain can take the sum, at its own place."""
        return len(node.users) == 1 and is_plain_call(node, self._modules) and self._may_be_summed(node)


def is_plain_call(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node calls a module without hooks with one argument."""
    return (
        node.op == "call_module"
        and len(node.args) == 1
        and not node.kwargs
        and isinstance(node.args[0], fx.Node)
        and not has_hooks(modules[node.target])
    )


def leave_out(graph: fx.Graph, modules: dict[str, nn.Module], kinds: tuple[type[nn.Module], ...]) -> None:
    """Take calls of modules that give what they are given out of a graph."""
    for node in list(graph.nodes):
        if is_plain_call(node, modules) and type(modules[node.target]) in kinds:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def has_hooks(module: nn.Module) -> bool:
    """Whether something wants to see a module's calls, or takes them."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks) or "forward" in vars(module)


@contextmanager
def silenced(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it nobody hears of these modules' forward calls."""
    hooks = [of for module in modules for of in (module._forward_hooks, module._forward_pre_hooks) if of]
    kept = [dict(of) for of in hooks]
    for of in hooks:
        of.clear()
    try:
        yield
    finally:
        for of, before in zip(hooks, kept, strict=True):
            of.update(before)


def activation_of(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[str, Callable[..., Any]] | None:
    """The name of the activation that a node is, and what computes it."""
    if node.op == "call_module" and is_plain_call(node, modules):
        module = modules[node.target]
        name = _MODULES.get(type(module), lambda module: None)(module)
        return None if name is None else (name, module)
    if len(node.args) != 1 or any(value not in _OPTIONS.get(name, ()) for name, value in node.kwargs.items()):
        return None
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return _FUNCTIONS[node.target], node.target
    if node.op == "call_method" and node.target in _METHODS and not node.kwargs:
        return _METHODS[node.target], getattr(torch.Tensor, node.target)
    return None


def between(first: fx.Node, last: fx.Node) -> Iterable[fx.Node]:
    node = first.next
    while node is not last:
        yield node
        node = node.next


def may_write(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node may write to a tensor that it did not make."""
    if node.op == "call_module":
        module = modules.get(node.target)
        return bool(getattr(module, "inplace", False)) or not type(module).__module__.startswith("torch.nn")
    if node.kwargs.get("inplace") or "out" in node.kwargs:
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "_")
    package = (getattr(node.target, "__module__", None) or "torch").partition(".")[0]
    if node.op == "call_function" and package not in _PURE:
        return package != "_operator" or name in (*IN_PLACE_OPERATORS, "setitem", "delitem", "iconcat")
    return node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__")
