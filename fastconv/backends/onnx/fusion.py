"""Convolutions and products joined with what follows them.

A node is joined with the one before if nobody else reads what is between them. The new node stands where the later one
stood, so all that it reads is there:

    Pad with zeros, then Conv                                    its pads
    Conv, ConvTranspose, Affine or Linear, then
        Affine, or Add, Sub, Mul, Div by a constant a channel   into weight and bias, computed in float64
        Add or Sum with another value                            its residual (but for ConvTranspose)
        an activation that convolutions end with                 its epilogue
    Sigmoid(x) * x, HardSigmoid(x) * x                           Silu, HardSwish
    x * (1 + Erf(x / sqrt(2))) * 0.5, in either order            Gelu
"""

from __future__ import annotations

from operator import add
from typing import Any

import numpy as np

from fastconv.backends.onnx.convolutions import is_packable
from fastconv.backends.onnx.graph import Array, Graph, Node, is_float
from fastconv.backends.onnx.kernels import widened
from fastconv.backends.onnx.pointwise import activation_of, scalar

TAKES_AFFINE = ("Conv", "ConvTranspose", "Affine", "Linear")
TAKES_RESIDUAL = ("Conv", "Affine", "Linear")
ACTIVATION = "activation"


def fuse(graph: Graph) -> None:
    """Join nodes where that can be, from the first to the last."""
    _Fusion(graph).run()


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses = graph.uses()
        self.kept: dict[int, Node] = {}  # by when they run
        self.made: dict[str, int] = {}  # where each value is made

    def run(self) -> None:
        for number, node in enumerate(self.graph.nodes):
            self._put(number, self._gate(node) or self._gelu(node) or node)
        self.graph.nodes = [self.kept[number] for number in sorted(self.kept)]

    def _put(self, number: int, node: Node) -> None:
        """Keep a node, joined with one before it if it can be."""
        latest_first = sorted({self.made[name] for name in node.inputs if name in self.made}, reverse=True)
        for earlier in latest_first:
            before = self.kept[earlier]
            joined = self._join(before, node) if self._is_alone(before) else None
            if joined is not None:
                del self.kept[earlier]
                node = joined
                break
        self.kept[number] = node
        self.made.update((name, number) for name in node.outputs if name)

    def _is_alone(self, node: Node) -> bool:
        """Whether one node alone reads its only output."""
        return len(node.outputs) == 1 and self.uses[node.outputs[0]] == 1

    def _join(self, before: Node, node: Node) -> Node | None:
        """What does both, or None."""
        if before.domain or node.domain:
            return None
        if before.op == "Pad":
            return self._padded(before, node)
        if before.op not in TAKES_AFFINE or ACTIVATION in before.attributes:
            return None
        if before.op in ("Affine", "Linear") or is_packable(before, self.graph.constants):
            activation = activation_of(node, self.graph.constants) if node.inputs[0] == before.outputs[0] else None
            if activation is not None and not self._is_wide_leak(before, activation):
                return self._joined(before, node, attributes={**before.attributes, ACTIVATION: activation})
            if len(before.inputs) < 4:
                return self._scaled(before, node) or self._with_residual(before, node)
        return None

    def _is_wide_leak(self, before: Node, activation: str) -> bool:
        """Whether a slope of 0.01 as float32 has it, which is ONNX's, is not that of float64."""
        return activation == "leaky_relu" and self.graph.constants[before.inputs[1]].dtype == np.float64

    def _padded(self, before: Node, node: Node) -> Node | None:
        """A Conv with the pads of a Pad before it."""
        if node.op != "Conv" or node.inputs[0] != before.outputs[0] or before.get("mode", "constant") != "constant":
            return None
        if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or before.input(3):
            return None
        pads, value = self._pads_of(before)
        ndim = len(pads or ()) // 2 - 2
        if pads is None or value != 0 or ndim < 1 or min(pads) < 0 or any((*pads[:2], *pads[ndim + 2 : ndim + 4])):
            return None
        own = node.get("pads", (0,) * 2 * ndim)
        added = (*pads[2 : ndim + 2], *pads[ndim + 4 :])
        if len(own) != len(added):
            return None
        attributes = {**node.attributes, "auto_pad": "NOTSET", "pads": tuple(map(add, own, added))}
        inputs = (before.inputs[0], *node.inputs[1:])
        return node.but(inputs=inputs, attributes=attributes, parts=(before.op, *(node.parts or (node.op,))))

    def _pads_of(self, pad: Node) -> tuple[tuple[int, ...] | None, float | None]:
        """The pads of a Pad and what it fills them with, where they are known ahead."""
        if pad.opset < 11:
            return pad.get("pads", pad.get("paddings", None)), pad.get("value", 0.0)
        pads = self.graph.constants.get(pad.input(1))
        value = scalar(self.graph.constants.get(pad.input(2))) if pad.input(2) else 0.0
        return None if pads is None else tuple(pads.tolist()), value

    def _joined(self, before: Node, node: Node, **changes: Any) -> Node:
        parts = (*(before.parts or (before.op,)), *(node.parts or (node.op,)))
        return before.but(outputs=node.outputs, parts=parts, **changes)

    def _scaled(self, before: Node, node: Node) -> Node | None:
        """Weight and bias multiplied, bias moved."""
        weight = self.graph.constants[before.inputs[1]]
        channels = _channels(before, weight)
        pair = self._affine_of(node, before, channels)
        if pair is None:
            return None
        scale, shift = (np.broadcast_to(np.float64(part), (channels,)) for part in pair)
        dtype = widened(weight).dtype
        bias = self.graph.constants[before.inputs[2]].astype(np.float64) if before.input(2) else 0.0
        names = [before.inputs[1], before.input(2)]
        if (scale != 1).any():
            scaled = _times(weight.astype(np.float64), scale, before).astype(dtype)
            names[0] = self.graph.add_constant(before.inputs[1], scaled)
        names[1] = self.graph.add_constant(before.input(2) or before.inputs[1], (bias * scale + shift).astype(dtype))
        return self._joined(before, node, inputs=(before.inputs[0], *names))

    def _affine_of(self, node: Node, before: Node, channels: int) -> tuple[Any, Any] | None:
        """(scale, shift), numbers or vectors, of what a node does to the channels of `before`'s output."""
        constants = self.graph.constants
        if node.op == "Affine":
            scale, shift = (constants[name].astype(np.float64) for name in node.inputs[1:3])
            rank = self.graph.rank(before.outputs[0])
            whole = len(node.inputs) == 3 and ACTIVATION not in node.attributes and (before.op != "Linear" or rank == 2)
            return (scale, shift) if whole and scale.shape == (channels,) else None
        if node.op not in ("Add", "Sub", "Mul", "Div") or node.get("broadcast", 0):
            return None
        first = node.inputs[0] == before.outputs[0]
        array = constants.get(node.inputs[first])
        other = self._by_channel(array, before, channels)
        if other is None or (node.op == "Div" and not first):
            return None
        sign = 1.0 if first else -1.0
        if node.op in ("Add", "Sub"):
            return (1.0, other) if node.op == "Add" else (sign, -sign * other)
        return other if node.op == "Mul" else 1 / other, 0.0

    def _by_channel(self, array: Any, before: Node, channels: int) -> Array | None:
        """A constant as a number or one number a channel, if broadcasting with `before`'s output makes that of it."""
        rank = 1 if before.op == "Linear" else self.graph.rank(before.outputs[0])
        if rank is None or not is_float(array) or array.ndim > rank:
            return None
        shape = (1,) * (rank - array.ndim) + array.shape
        axis = rank - 1 if before.op == "Linear" else 1
        if any(size != 1 for place, size in enumerate(shape) if place != axis) or shape[axis] not in (1, channels):
            return None
        return array.astype(np.float64).reshape(-1)

    def _with_residual(self, before: Node, node: Node) -> Node | None:
        if node.op not in ("Add", "Sum") or before.op not in TAKES_RESIDUAL or len(node.inputs) != 2:
            return None
        other = node.inputs[node.inputs[0] == before.outputs[0]]
        if node.get("broadcast", 0) or other == before.outputs[0]:
            return None
        inputs = (*before.inputs, *("",) * (3 - len(before.inputs)), other)
        return self._joined(before, node, inputs=inputs)

    def _gate(self, node: Node) -> Node | None:
        """x * Sigmoid(x) as one Silu, x * HardSigmoid(x) as one HardSwish."""
        if node.op != "Mul" or node.domain or len(node.inputs) != 2:
            return None
        for gate, x in (node.inputs, node.inputs[::-1]):
            number = self.made.get(gate)
            sigmoid = None if number is None else self.kept[number]
            op = None if sigmoid is None else _gated_by(sigmoid)
            if sigmoid is not None and op is not None and sigmoid.inputs == (x,) and self._is_alone(sigmoid):
                del self.kept[self.made[gate]]
                self.uses[x] -= 1
                return node.but(op=op, inputs=(x,), attributes={}, parts=(sigmoid.op, "Mul"))
        return None

    def _gelu(self, node: Node) -> Node | None:
        """The last of the five nodes that exporters write for a Gelu, as one."""
        found = _Gelu(self, node).match()
        if found is None:
            return None
        x, numbers = found
        for number in numbers:
            del self.kept[number]
        self.uses[x] -= 1
        return node.but(op="Gelu", inputs=(x,), attributes={}, parts=("Div", "Erf", "Add", "Mul", "Mul"))


class _Gelu:
    """Looks back from a Mul: x * (erf(x / sqrt(2)) + 1) * 0.5, the three factors in any order."""

    def __init__(self, fusion: _Fusion, last: Node) -> None:
        self.fusion, self.last = fusion, last
        self.numbers: list[int] = []

    def match(self) -> tuple[str, list[int]] | None:
        """x and the nodes between, or None."""
        if self.last.op != "Mul" or self.last.domain:
            return None
        factors = self._factors()
        if factors is None:
            return None
        values, scale = factors
        if scale is None or abs(scale - 0.5) > 1e-6 or len(values) != 2:
            return None
        for x, gate in (values, values[::-1]):
            before = list(self.numbers)
            if self._is_gate(gate, x):
                return x, self.numbers
            self.numbers = before
        return None

    def _factors(self) -> tuple[list[str], float | None] | None:
        """The values and the constant of a product of three."""
        for inner, outer in (self.last.inputs, self.last.inputs[::-1]):
            product = self._made_by("Mul", inner)
            if product is not None:
                names = [*product.inputs, outer]
                numbers = [self._number(name) for name in names]
                if sum(number is not None for number in numbers) == 1:
                    self.numbers.append(self.fusion.made[inner])
                    values = [name for name, number in zip(names, numbers, strict=True) if number is None]
                    return values, next(number for number in numbers if number is not None)
        return None

    def _is_gate(self, name: str, x: str) -> bool:
        """Whether it is erf(x / sqrt(2)) + 1."""
        plus = self._made_by("Add", name)
        if plus is None:
            return False
        inner = [i for i in plus.inputs if self._number(i) is None]
        if len(inner) != 1 or [self._number(i) for i in plus.inputs if i not in inner] != [1.0]:
            return False
        function = self._made_by("Erf", inner[0])
        scaled = self._made_by(("Div", "Mul"), function.inputs[0]) if function else None
        if function is None or scaled is None or scaled.inputs[0] != x:
            return False
        by = self._number(scaled.inputs[1])
        root = 2**0.5 if scaled.op == "Div" else 0.5**0.5
        if by is None or abs(by - root) > 1e-6:
            return False
        self.numbers += [self.fusion.made[n] for n in (name, inner[0], function.inputs[0])]
        return True

    def _made_by(self, ops: str | tuple[str, ...], name: str) -> Node | None:
        """The node that makes a value, if it is of this operator and alone."""
        number = self.fusion.made.get(name)
        node = None if number is None else self.fusion.kept[number]
        ops = (ops,) if isinstance(ops, str) else ops
        fits = node is not None and node.op in ops and not node.domain and self.fusion._is_alone(node)
        return node if fits else None

    def _number(self, name: str) -> float | None:
        return scalar(self.fusion.graph.constants.get(name))


def _gated_by(gate: Node) -> str | None:
    """The operator that x * gate(x) is."""
    if gate.op == "HardSigmoid" and abs(gate.get("alpha", 0.2) - 1 / 6) < 1e-6 and gate.get("beta", 0.5) == 0.5:
        return "HardSwish"
    return "Silu" if gate.op == "Sigmoid" else None


def _channels(node: Node, weight: Array) -> int:
    return weight.shape[1] * node.get("group", 1) if node.op == "ConvTranspose" else weight.shape[0]


def _times(weight: Array, scale: Array, node: Node) -> Array:
    """The weight with each output channel multiplied."""
    if node.op != "ConvTranspose":
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    groups = node.get("group", 1)
    by_group = weight.reshape(groups, -1, *weight.shape[1:])
    return (by_group * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))).reshape(weight.shape)
