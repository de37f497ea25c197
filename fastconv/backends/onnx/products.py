"""Products moved to where they take the fewest multiplications.

Both passes follow fusion, when biases and activations are where they stay. Weights are multiplied in float64.

    Conv(Concat(a, Resize(b)))               Conv(a) + Resize(Conv(b)): a convolution of one tap over channels and an
                                             interpolation over the other axes may change places, and there are fewer
                                             pixels before it
    Conv(Reshape(Transpose(Linear(x))))      Conv(Reshape(Transpose(x))) with the product of both weights
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from fastconv.backends.onnx.convolutions import is_packable
from fastconv.backends.onnx.graph import Array, Graph, Node
from fastconv.backends.onnx.kernels import wide, widened
from fastconv.backends.onnx.resize import is_interpolation

TRANSPOSED = (0, 2, 1)


def move_products(graph: Graph) -> None:
    """Both passes, the second one over what the first one leaves."""
    for rewrite in (_split, _merged):
        before = _Makers(graph)
        graph.nodes = [new for node in graph.nodes for new in rewrite(before, node) or [node]]
        graph.drop_unused()  # what is read no more would count as a reader


class _Makers:
    """Which node makes a value, and whether that is read once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses: Counter[str] = graph.uses()
        self.makers = {name: node for node in graph.nodes for name in node.outputs if name}

    def alone(self, name: str, op: str) -> Node | None:
        """The node that makes a value for one reader, if it is of this operator."""
        node = self.makers.get(name)
        fits = node is not None and node.op == op and not node.domain and self.uses[name] == 1
        return node if fits else None


def _is_product(node: Node, graph: Graph) -> bool:
    """Whether it is a convolution of one tap with a constant weight."""
    if node.op != "Conv" or node.domain or not is_packable(node, graph.constants):
        return False
    taps = graph.constants[node.inputs[1]].shape[2:]
    steps = (*node.get("strides", ()), *(1 + n for n in node.get("pads", ())), node.get("group", 1))
    return all(n == 1 for n in (*taps, *steps))


def _split(before: _Makers, node: Node) -> list[Node] | None:
    """A convolution over a Concat, as one over what is not enlarged and one before each enlargement."""
    graph = before.graph
    concat = before.alone(node.input(0), "Concat")
    if concat is None or not _is_product(node, graph) or node.input(3) or not _joins_channels(concat, graph):
        return None
    weight = graph.constants[node.inputs[1]]
    resizes = {name: _enlargement(before.alone(name, "Resize"), graph) for name in concat.inputs}
    moved = sum(_channels(name, graph) for name, resize in resizes.items() if resize)
    count = sum(resize is not None for resize in resizes.values())
    # Memory would be what it costs: sums of many that are larger than what was joined.
    if not 0 < count < len(concat.inputs) or count * len(weight) > moved:
        return None
    made: list[Node] = []
    plain, columns, total, begin = [], [], "", 0
    for name in concat.inputs:
        end = begin + _channels(name, graph)
        resize = resizes[name]
        if resize is None:
            plain.append(name)
            columns.append(weight[:, begin:end])
        else:
            total = _enlarged(graph, node, resize, weight[:, begin:end], total, made)
        begin = end
    return [*made, *_plain(graph, node, concat, plain, np.concatenate(columns, 1), total)]


def _channels(name: str, graph: Graph) -> int:
    shape = graph.shape(name)
    assert shape is not None
    return shape[1]


def _joins_channels(concat: Node, graph: Graph) -> bool:
    """Whether it does, and the shapes of what it joins are known."""
    shapes = [graph.shape(name) for name in concat.inputs]
    ranks = {len(shape or ()) for shape in shapes}
    return None not in shapes and len(ranks) == 1 and concat.get("axis", 1) % max(ranks) == 1


def _enlargement(node: Node | None, graph: Graph) -> Node | None:
    """A node that interpolates to more pixels than there are, by sizes that are known, and leaves channels alone."""
    if node is None or not is_interpolation(node) or len(node.inputs) != 4 or node.inputs[3] not in graph.constants:
        return None
    x, y = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    if x is None or y is None or x[:2] != y[:2] or np.prod(y) <= np.prod(x):
        return None
    return node if graph.constants[node.inputs[3]].shape == (len(y),) else None


def _enlarged(graph: Graph, node: Node, resize: Node, weight: Array, total: str, made: list[Node]) -> str:
    """Make the convolution of what is enlarged, and its enlargement, to which `total` is added; returns its name."""
    narrow, wide = graph.new_name(resize.inputs[0]), graph.new_name(resize.outputs[0])
    sizes = graph.constants[resize.inputs[3]].copy()
    sizes[1] = len(weight)
    name, sizes_name = (graph.add_constant(like, array) for like, array in
                        ((node.inputs[1], np.ascontiguousarray(weight)), (resize.inputs[3], sizes)))  # fmt: skip
    kept = {key: value for key, value in node.attributes.items() if key != "activation"}
    made.append(node.but(inputs=(resize.inputs[0], name), outputs=(narrow,), attributes=kept, parts=("Conv",)))
    inputs = (narrow, "", "", sizes_name) + ((total,) if total else ())
    made.append(resize.but(inputs=inputs, outputs=(wide,), parts=("Resize", "Add") if total else ()))
    return wide


def _plain(graph: Graph, node: Node, concat: Node, names: list[str], weight: Array, total: str) -> list[Node]:
    """The convolution of what is not enlarged, to which `total` is added before the activation."""
    made, x = [], names[0]
    if len(names) > 1:
        x = graph.new_name(concat.outputs[0])
        made.append(concat.but(inputs=tuple(names), outputs=(x,)))
    inputs = (x, graph.add_constant(node.inputs[1], weight), node.input(2), total)
    return [*made, node.but(inputs=inputs, parts=("Conv", "Add", *(node.parts or ("Conv",))[1:]))]


def _merged(before: _Makers, node: Node) -> list[Node] | None:
    """A convolution with the product of its weight and that of a Linear, whose columns were turned into channels."""
    graph = before.graph
    reshape = before.alone(node.input(0), "Reshape")
    transpose = before.alone(reshape.inputs[0], "Transpose") if reshape else None
    linear = before.alone(transpose.inputs[0], "Linear") if transpose else None
    if reshape is None or transpose is None or linear is None or not _is_product(node, graph):
        return None
    shape, columns = graph.shape(reshape.outputs[0]), graph.shape(transpose.outputs[0])
    first, second = (graph.constants[n.inputs[1]] for n in (linear, node))
    if shape is None or columns is None or shape[:2] != columns[:2] or transpose.get("perm", None) != TRANSPOSED:
        return None
    if not _is_bare(linear) or second.shape[0] * first.shape[1] > first.size + second.size:
        return None
    weight = (wide(second).reshape(second.shape[:2]) @ wide(first)).astype(widened(second).dtype)
    sizes = np.array((shape[0], first.shape[1], *shape[2:]), np.int64)
    turned, x = graph.new_name(transpose.outputs[0]), graph.new_name(reshape.outputs[0])
    inputs = (
        x,
        graph.add_constant(node.inputs[1], weight.reshape(*weight.shape, *second.shape[2:])),
        _bias(graph, linear, node),
        *node.inputs[3:],
    )
    return [
        transpose.but(inputs=(linear.inputs[0],), outputs=(turned,)),
        reshape.but(inputs=(turned, graph.add_constant("shape", sizes)), outputs=(x,), attributes={}),
        node.but(inputs=inputs, parts=(*(linear.parts or (linear.op,)), *(node.parts or (node.op,)))),
    ]


def _is_bare(linear: Node) -> bool:
    """Whether nothing is done to the product but that a bias is added."""
    return not linear.input(3) and "activation" not in linear.attributes


def _bias(graph: Graph, linear: Node, node: Node) -> str:
    """The name of the bias of both, "" if there is none."""
    weight = graph.constants[node.inputs[1]]
    own = graph.constants[node.inputs[2]] if node.input(2) else None
    if not linear.input(2):
        return node.input(2)
    bias = wide(weight).reshape(weight.shape[:2]) @ wide(graph.constants[linear.inputs[2]])
    if own is not None:
        bias += wide(own)
    return graph.add_constant(linear.inputs[2], bias.astype(widened(weight).dtype))
