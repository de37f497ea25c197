"""A model as passes see it: nodes in order, constants, inputs and outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.inference import Sizes

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Node:
    """An operator with names for what it reads and writes; an input or output that is left out is "".

    `opset` is the version of its domain. `captured` are the names that its subgraphs read from around it, `proto` what
    the model says, of which passes keep nothing but the title. `parts` are the operators that it was fused from.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int
    title: str
    domain: str = ""
    captured: tuple[str, ...] = ()
    proto: Any = None
    parts: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """Every name that must be there before it runs."""
        return (*(name for name in self.inputs if name), *self.captured)

    def need(self, name: str) -> Any:
        """An attribute that must be given."""
        if name not in self.attributes:
            raise ValueError(f"attribute {name} must be given")
        return self.attributes[name]

    def get(self, name: str, default: Any) -> Any:
        """An attribute, or its default."""
        return self.attributes.get(name, default)

    def input(self, position: int) -> str:
        """The name of an input, "" where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else ""

    def but(self, **changes: Any) -> Node:
        """The same node with other fields."""
        return replace(self, **changes)

    def error(self, what: object) -> ModelError:
        """The error that names this node; `what` becomes one line."""
        return ModelError(f"{self.title}: {' '.join(str(what).split())}")


@dataclass
class Graph:
    """Nodes in an order in which they can run, and the values that are known before."""

    inputs: tuple[Any, ...]  # ValueInfoProtos without those of constants
    outputs: tuple[Any, ...]
    nodes: list[Node]
    constants: dict[str, Any]
    opsets: dict[str, int]
    sizes: dict[str, Sizes] = field(default_factory=dict)  # of values, as far as they are known before a run
    names: set[str] = field(default_factory=set)  # in use, once a new one was asked for

    @property
    def output_names(self) -> tuple[str, ...]:
        """What the model computes."""
        return tuple(output.name for output in self.outputs)

    def uses(self) -> Counter[str]:
        """How often each value is read, by nodes and as an output of the model."""
        return Counter([name for node in self.nodes for name in node.reads] + list(self.output_names))

    def rank(self, name: str) -> int | None:
        """The number of axes of a value, None where it is not known."""
        sizes = self.sizes.get(name)
        return None if sizes is None else len(sizes)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a value that has the same in every run, None of others."""
        sizes = self.sizes.get(name)
        return None if sizes is None or None in sizes else tuple(n for n in sizes if n is not None)

    def new_name(self, like: str) -> str:
        """A name that no value has, made from that of another one."""
        if not self.names:
            made = (name for node in self.nodes for name in node.outputs)
            self.names = {*self.constants, *(value.name for value in self.inputs), *made}
        name, number = like, 0
        while name in self.names:
            number += 1
            name = f"{like}'{number}"
        self.names.add(name)
        return name

    def add_constant(self, like: str, array: Array) -> str:
        """Name of a new constant, made from that of another one."""
        name = self.new_name(like)
        self.constants[name] = array
        return name

    def drop_unused(self) -> None:
        """Leave out nodes that nobody reads, and then constants."""
        wanted, kept = set(self.output_names), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(node.reads)
        self.nodes = kept[::-1]
        self.constants = {name: array for name, array in self.constants.items() if name in wanted}


def nodes_of(protos: Iterable[Any], opsets: dict[str, int]) -> Iterator[Node]:
    """The nodes of NodeProtos."""
    for number, given in enumerate(protos):
        proto = copied(given)
        domain = proto.domain = "" if given.domain == "ai.onnx" else given.domain
        shown = repr(proto.name) if proto.name else f"{number} -> {next(iter(proto.output), '')!r}"
        title = f"{proto.op_type} {shown}"
        if domain not in opsets:
            raise ModelError(f"{title}: its domain {domain!r} is none of the model's opsets {opsets}")
        yield Node(
            proto.op_type, tuple(proto.input), tuple(proto.output), _attributes(proto), opsets[domain], title, domain,
            tuple(dict.fromkeys(_captured(proto))), proto,
        )  # fmt: skip


def copied(proto: Any) -> Any:
    """A part of a model by itself: the part that lies in the model would keep all of its weights in memory."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


def _attributes(proto: Any) -> dict[str, Any]:
    return {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in proto.attribute if not a.ref_attr_name}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return value


def _captured(proto: Any) -> Iterator[str]:
    """Names that a node's subgraphs read and do not make."""
    for attribute in proto.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else attribute.graphs
        for graph in graphs:
            made = {value.name for value in (*graph.input, *graph.initializer)}
            made |= {tensor.values.name for tensor in graph.sparse_initializer}
            for node in graph.node:
                yield from (name for name in (*node.input, *_captured(node)) if name and name not in made)
                made.update(node.output)
            yield from (output.name for output in graph.output if output.name not in made)


def is_float(array: Any) -> TypeGuard[Array]:
    """Whether it is an array of a floating type, ml_dtypes' bfloat16 among them."""
    return isinstance(array, np.ndarray) and (array.dtype.kind == "f" or array.dtype.name == "bfloat16")
