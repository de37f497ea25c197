"""Operators that fastconv has no kernel for, by onnx's reference evaluator, a node at a time.

A subgraph's nodes that are in our table run on our kernels in there, too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from fastconv.backends.onnx import (  # noqa: F401
    convolutions,
    linear,
    normalizations,
    pointwise,
    pools,
    resize,
    shapes,
    shuffles,
    stripes,
)
from fastconv.backends.onnx.graph import Node, copied, nodes_of
from fastconv.backends.onnx.kernels import OPERATORS, Kernel
from fastconv.planner import PlanCache

HOW = "onnx reference"


def reference_kernel(node: Node, opsets: dict[str, int]) -> Kernel:
    """What runs a node by the reference evaluator; it is given the node's inputs and then what its subgraphs capture.

    Raises
    ------
    ModelError
        If the evaluator does not know the operator.
    """
    if node.op == "Scatter" and not node.domain:  # the old name of ScatterElements
        proto = copied(node.proto)
        proto.op_type = "ScatterElements"
        node, opsets = node.but(proto=proto), {**opsets, "": 11}
    names = (*node.proto.input, *node.captured)  # the model's own: passes may have renamed the node's inputs
    outputs = [name for name in node.outputs if name]
    untyped = _evaluator(node, {name: onnx.TypeProto() for name in names if name}, outputs, opsets)
    typed: PlanCache[Any] = PlanCache(16)
    is_typed = _has_typed_body(node)

    def run(*values: Any) -> Any:
        feeds = dict(zip(names, values, strict=True))
        feeds.pop("", None)
        evaluator = untyped
        if is_typed:
            types = {name: _type(value) for name, value in feeds.items()}
            key = tuple(type_.SerializeToString() for type_ in types.values())
            evaluator = typed.get(key) or typed.put(key, _evaluator(node, types, outputs, opsets))
        results = iter(evaluator.run(outputs, feeds))
        return tuple(next(results) if name else None for name in node.outputs)

    return Kernel(run, HOW, fresh=False)


def _has_typed_body(node: Node) -> bool:
    """Whether the operator is defined by others, which depend on the types of its inputs."""
    try:
        return bool(onnx.defs.get_schema(node.op, node.opset, node.domain).has_context_dependent_function)
    except onnx.defs.SchemaError:
        return False


def _type(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _evaluator(node: Node, types: dict[str, Any], outputs: list[str], opsets: dict[str, int]) -> Any:
    graph = onnx.helper.make_graph(
        [node.proto], "node", [onnx.ValueInfoProto(name=name, type=type_) for name, type_ in types.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )  # fmt: skip
    versions = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=versions)
    try:
        return ReferenceEvaluator(model, new_ops=list(_bridges()) if has_graph(node) else None)
    except (NotImplementedError, RuntimeError, TypeError, AttributeError, onnx.defs.SchemaError) as error:
        domain = node.domain or "ai.onnx"
        raise node.error(f"operator {node.op} of {domain} {node.opset} is not supported") from error


def has_graph(node: Node) -> bool:
    """Whether a node has subgraphs, such as a Loop's body."""
    return any(a.HasField("g") or a.graphs for a in node.proto.attribute)


@cache
def _bridges() -> tuple[type, ...]:
    """Our operators as the evaluator has its own, for subgraphs."""
    ours = (name for name in OPERATORS if onnx.defs.has(name))
    return tuple(type(name, (_Bridge,), {"op_domain": ""}) for name in ours)


class _Bridge(OpRun):
    """A node of a subgraph. What it takes from the evaluator is the node alone."""

    def __init__(self, onnx_node: Any, run_params: dict[str, Any], schema: Any = None) -> None:
        super().__init__(onnx_node, run_params, schema)
        opsets = run_params["opsets"]
        (node,) = nodes_of([onnx_node], opsets)
        self._kernel = kernel_of(node, opsets)

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        results = self._kernel.run(*inputs)
        return results if isinstance(results, tuple) else (results,)


def kernel_of(node: Node, opsets: dict[str, int], constants: Any = None) -> Kernel:
    """What runs a node: a kernel of ours, or else the reference evaluator.

    Raises
    ------
    ModelError
        If there is neither, or the node's attributes are wrong.
    """
    factory = None if node.domain else OPERATORS.get(node.op)
    try:
        kernel = factory(node, constants or {}) if factory else None
    except (ValueError, TypeError) as error:
        raise node.error(error) from error
    return kernel or reference_kernel(node, opsets)
