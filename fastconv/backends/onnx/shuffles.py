"""Channels shuffled across groups, as in ShuffleNet: (N, G * K, *size) -> (N, G, K, *size) -> (N, K, G, *size) -> back.

ONNX has three nodes for it, whose reshapes copy where channels lie last. There it is a small matrix transposed for each
pixel: ChannelShuffle, an operator of ours, whose attributes are those of the three.
"""

from __future__ import annotations

from fastconv import functional as F
from fastconv.backends.onnx.graph import Graph, Node
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, operator
from fastconv.backends.onnx.layout import as_first, as_lies, lies_last
from fastconv.backends.onnx.shapes import without_zeros
from fastconv.geometry.arrays import DTYPES

Shape = tuple[int, ...]


def join_shuffles(graph: Graph) -> None:
    """Make one node of each Reshape, Transpose and Reshape that change the order of channels alone.

    Whether the reshapes split and join channels is seen when it runs: what sizes they ask for may be relative.
    """
    uses, makers = graph.uses(), {name: node for node in graph.nodes for name in node.outputs}
    kept: dict[Node, Node | None] = {node: node for node in graph.nodes}
    for last in graph.nodes:
        turn = makers.get(last.input(0))
        first = makers.get(turn.input(0)) if turn is not None else None
        if first is None or turn is None or not (_splits(first, graph) and _swaps(turn)):
            continue
        if not _joins(last, _sizes(first, graph), graph):
            continue
        if any(uses[node.outputs[0]] != 1 for node in (first, turn)) or any(kept[n] is not n for n in (first, last)):
            continue
        kept[first] = kept[turn] = None
        kept[last] = last.but(
            op="ChannelShuffle", inputs=first.inputs[:1], parts=(first.op, turn.op, last.op), attributes={
                "split": _sizes(first, graph), "perm": turn.need("perm"), "joined": _sizes(last, graph),
            },
        )  # fmt: skip
    graph.nodes = [node for node in kept.values() if node is not None]


def _is_reshape(node: Node, graph: Graph) -> bool:
    known = "shape" in node.attributes or node.input(1) in graph.constants
    return node.op == "Reshape" and not node.domain and known and not node.get("allowzero", 0)


def _splits(node: Node, graph: Graph) -> bool:
    return _is_reshape(node, graph) and len(_sizes(node, graph)) > 3


def _joins(node: Node, split: Shape, graph: Graph) -> bool:
    """Whether a Reshape may join the channels that one to `split` has split."""
    if not _is_reshape(node, graph):
        return False
    joined = _sizes(node, graph)
    known = len(joined) == len(split) - 1 and min(split[1], split[2], joined[1]) > 0
    return len(joined) == len(split) - 1 and (not known or joined[1] == split[1] * split[2])


def _swaps(node: Node) -> bool:
    order = node.get("perm", ())
    return node.op == "Transpose" and not node.domain and order == (0, 2, 1, *range(3, len(order)))


def _sizes(node: Node, graph: Graph) -> tuple[int, ...]:
    return tuple(node.attributes["shape"] if "shape" in node.attributes else graph.constants[node.inputs[1]].tolist())


@operator("ChannelShuffle")
def _channel_shuffle(node: Node, constants: Constants) -> Kernel:
    split, order, joined = node.need("split"), node.need("perm"), node.need("joined")

    def run(x: Array) -> Array:
        if x.dtype in DTYPES and lies_last(x) and _shuffles(x.shape, split, joined):
            pixels = as_lies(x, True)
            matrices = pixels.reshape(-1, split[1], x.shape[1] // split[1])
            return as_first(F.to_channels_last(matrices).reshape(pixels.shape), True)
        turned = x.reshape(without_zeros(split, x.shape)).transpose(order)
        return turned.reshape(without_zeros(joined, turned.shape))

    return Kernel(run, "channel shuffle", fresh=False)  # one group is a view


def _shuffles(shape: Shape, split: Shape, joined: Shape) -> bool:
    """Whether the reshapes split and join the channels of a value of this shape, and nothing else."""
    n, channels, *size = shape
    if split[1] < 1 or channels % split[1]:
        return False
    apart = n, split[1], channels // split[1], *size
    turned = n, apart[2], apart[1], *size
    return _gives(split, shape, apart) and _gives(joined, turned, shape)


def _gives(sizes: Shape, shape: Shape, wanted: Shape) -> bool:
    """Whether a Reshape to these sizes, of as many elements, makes the wanted shape of this one."""
    asked = without_zeros(sizes, shape)
    return len(asked) == len(wanted) and all(n in (-1, size) for n, size in zip(asked, wanted, strict=True))
