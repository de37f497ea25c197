"""What is done to a graph once, so that running it is less: each pass takes a graph and changes it.

fold_constants  nodes whose inputs are all known are run
skip_no_ops     Identity, Resize to the same size, and Dropout outside of training
specialize      BatchNormalization, Gemm and MatMul with constant parameters become Affine and Linear
fuse            what follows a convolution or product goes into its weight, bias, residual or activation
move_products   products over many pixels go before what makes them many, and into one another
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.backends.onnx.fallback import has_graph, kernel_of
from fastconv.backends.onnx.fusion import fuse
from fastconv.backends.onnx.graph import Array, Graph, Node, is_float
from fastconv.backends.onnx.kernels import wide, widened
from fastconv.backends.onnx.normalizations import is_training
from fastconv.backends.onnx.products import move_products
from fastconv.backends.onnx.resize import is_interpolation
from fastconv.backends.onnx.step import Step

RANDOM = ("Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
          "RandomUniformLike")  # fmt: skip


def optimize(graph: Graph) -> None:
    """All passes, in the order in which each finds most to do.

    Raises
    ------
    ModelError
        If a node whose inputs are constants cannot be run.
    """
    graph.drop_unused()
    fold_constants(graph)
    skip_no_ops(graph)
    specialize(graph)
    merge_scales(graph)
    fuse(graph)
    move_products(graph)
    graph.drop_unused()


def fold_constants(graph: Graph) -> None:
    """Run every node whose inputs are constants, but those with subgraphs; their outputs become constants.

    So does the shape of a value that has always the same.
    """
    kept = []
    for node in graph.nodes:
        if node.op == "Shape" and not node.domain and (shape := graph.shape(node.inputs[0])) is not None:
            graph.constants[node.outputs[0]] = np.array(shape[node.get("start", 0) : node.get("end", None)], np.int64)
            continue
        if node.op in RANDOM or has_graph(node) or any(name not in graph.constants for name in node.reads):
            kept.append(node)
            continue
        kernel = kernel_of(node, graph.opsets)
        results = Step(node, kernel, (*node.inputs, *node.captured), {}, ())(graph.constants)
        graph.constants.update((name, y) for name, y in zip(node.outputs, results, strict=False) if name)
    graph.nodes = kept


def skip_no_ops(graph: Graph) -> None:
    """Leave out nodes that hand on their first input, unless a name must stay for an output of the model."""
    kept: list[Node] = []
    instead: dict[str, str] = {}
    uses = graph.uses()
    captured = {name for node in graph.nodes for name in node.captured}
    for node in graph.nodes:
        node = node.but(inputs=tuple(instead.get(name, name) for name in node.inputs))
        y = node.outputs[0]
        if (
            _hands_on(node, graph)
            and not any(uses[name] for name in node.outputs[1:])
            and not (y in graph.output_names or y in captured)
        ):
            instead[y] = node.inputs[0]
        else:
            kept.append(node)
    graph.nodes = kept


def _hands_on(node: Node, graph: Graph) -> bool:
    if node.domain:
        return False
    if node.op == "Resize":
        shape = graph.shape(node.inputs[0])
        by_sizes = bool(node.input(3)) and node.input(3) in graph.constants
        return by_sizes and is_interpolation(node) and shape is not None and shape == graph.shape(node.outputs[0])
    return node.op == "Identity" or (node.op == "Dropout" and not node.input(2))


def specialize(graph: Graph) -> None:
    """Give nodes whose parameters are constants the form in which they fuse."""
    graph.nodes = [_affine(node, graph) or _linear(node, graph) or node for node in graph.nodes]


def _affine(node: Node, graph: Graph) -> Node | None:
    """y = scale * x + shift, channel by channel, for a BatchNormalization; computed in float64."""
    if node.op != "BatchNormalization" or node.domain or is_training(node) or any(node.outputs[1:]):
        return None
    parameters = [array for name in node.inputs[1:5] if is_float(array := graph.constants.get(name))]
    if len(parameters) < 4 or not all(p.ndim == 1 and p.shape == parameters[0].shape for p in parameters):
        return None
    weight, bias, mean, var = (p.astype(np.float64) for p in parameters)
    scale, dtype = weight / np.sqrt(var + node.get("epsilon", 1e-5)), widened(parameters[0]).dtype
    names = (
        graph.add_constant(node.inputs[1], scale.astype(dtype)),
        graph.add_constant(node.inputs[2], (bias - scale * mean).astype(dtype)),
    )
    return node.but(op="Affine", inputs=(node.inputs[0], *names), attributes={}, parts=(node.op,))


def _linear(node: Node, graph: Graph) -> Node | None:
    """A product with a constant matrix (N, K), transposed, plus a bias (N,)."""
    if node.op not in ("Gemm", "MatMul") or node.domain or node.get("transA", 0):
        return None
    matrix, shift = graph.constants.get(node.input(1)), graph.constants.get(node.input(2))
    if not is_float(matrix) or matrix.ndim != 2 or 0 in matrix.shape:
        return None
    weight = widened(matrix if node.get("transB", 0) else matrix.T)
    if node.get("alpha", 1.0) != 1:
        weight = weight * weight.dtype.type(node.get("alpha", 1.0))
    inputs: tuple[str, ...] = (node.inputs[0], graph.add_constant(node.inputs[1], weight))
    if node.input(2):
        bias = _as_bias(shift, len(weight))
        if bias is None:
            return None
        beta = bias.dtype.type(node.get("beta", 1.0))
        inputs = (*inputs, graph.add_constant(node.inputs[2], bias * beta))
    return node.but(op="Linear", inputs=inputs, attributes={}, parts=(node.op,))


def merge_scales(graph: Graph) -> None:
    """Multiply weights of a Linear by the scale of the LayerNormalization before it, and move its bias by the shift."""
    uses = graph.uses()
    places = {node.outputs[0]: place for place, node in enumerate(graph.nodes) if node.op == "LayerNormalization"}
    for place, node in enumerate(graph.nodes):
        before = graph.nodes[places[node.inputs[0]]] if node.op == "Linear" and node.inputs[0] in places else None
        if before is None or before.domain or len(before.outputs) != 1 or uses[node.inputs[0]] != 1:
            continue
        merged = _merged(before, node, graph)
        if merged is not None:
            graph.nodes[places[node.inputs[0]]] = before.but(inputs=before.inputs[:1])
            graph.nodes[place] = merged


def _merged(before: Node, node: Node, graph: Graph) -> Node | None:
    """The product of what is not scaled, if the scale is one a column."""
    weight = graph.constants[node.inputs[1]]
    scale, shift = (graph.constants.get(before.input(position)) for position in (1, 2))
    if not is_float(scale) or scale.shape != weight.shape[1:] or (before.input(2) and not is_float(shift)):
        return None
    inputs: tuple[str, ...] = (
        node.inputs[0],
        graph.add_constant(node.inputs[1], _rounded(weight * wide(scale), weight)),
    )
    if is_float(shift):
        bias = wide(weight) @ wide(shift) + (wide(graph.constants[node.inputs[2]]) if node.input(2) else 0)
        inputs = (*inputs, graph.add_constant(node.input(2) or before.inputs[2], _rounded(bias, weight)))
    return node.but(inputs=(*inputs, *node.inputs[len(inputs) :]))


def _rounded(array: Array, like: Array) -> Array:
    return array.astype(widened(like).dtype)


def _as_bias(array: Any, size: int) -> Array | None:
    """What is added to every row, if that is what broadcasting does."""
    if not is_float(array) or array.size not in (1, size) or array.shape[:-1] not in ((), (1,)):
        return None
    return np.array(np.broadcast_to(widened(array).reshape(-1), (size,)))
