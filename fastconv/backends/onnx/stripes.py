"""Depthwise convolutions joined with their neighbours, to run stripe by stripe (see `fastconv.kernels.stripes`).

Only channels_last runs so: `Session(data_format="channels_last")` joins Conv nodes to Stripes, an operator of ours,
whose inputs are x, each stage's weight and bias, and the last one's residual if it has one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastconv.backends.onnx.convolutions import Convolution, describe, is_packable
from fastconv.backends.onnx.graph import Graph, Node
from fastconv.backends.onnx.kernels import Array, Constants, Kernel, floating, operator
from fastconv.backends.onnx.layout import as_first, as_lies, lies_last
from fastconv.functional.stripes import PlannedStripes, Stage, StripesByShape


def join_depthwise(graph: Graph) -> None:
    """Join each depthwise convolution with the one before and the 1x1 after it, where nobody else reads what is
    between them. The new node stands where the last of them stood."""
    uses = graph.uses()
    made: dict[str, int] = {}
    runs: dict[int, list[Node]] = {}  # by where the last one stands
    for number, node in enumerate(graph.nodes):
        run = [node]
        before = made.get(node.inputs[0]) if node.inputs else None
        if before is not None and uses[node.inputs[0]] == 1 and _continues(runs[before], node, graph.constants):
            run = [*runs.pop(before), node]
        runs[number] = run
        made.update((name, number) for name in node.outputs if name)
    graph.nodes = [run[0] if len(run) == 1 else _joined(run) for _, run in sorted(runs.items())]


def _continues(run: list[Node], node: Node, constants: Constants) -> bool:
    before = run[-1]
    if not (_may_run(before, constants) and _may_run(node, constants)) or before.input(3):
        return False
    if _is_depthwise(node, constants):
        return len(run) == 1
    return _is_depthwise(before, constants) and constants[node.inputs[1]].shape[2:] == (1, 1)


def _may_run(node: Node, constants: Constants) -> bool:
    return (
        not node.domain and node.op == "Conv" and is_packable(node, constants) and constants[node.inputs[1]].ndim == 4
    )


def _is_depthwise(node: Node, constants: Constants) -> bool:
    return node.get("group", 1) > 1 and constants[node.inputs[1]].shape[1] == 1


def _joined(run: list[Node]) -> Node:
    last = run[-1]
    weights = (name for node in run for name in (node.inputs[1], node.input(2)))
    residual = (last.inputs[3],) if last.input(3) else ()
    return last.but(
        op="Stripes", inputs=(run[0].inputs[0], *weights, *residual), attributes={"stages": tuple(run)},
        parts=tuple(part for node in run for part in node.parts or (node.op,)),
    )  # fmt: skip


class Stripes:
    """Convolutions with constant weights, one after the other."""

    def __init__(self, node: Node, constants: Constants) -> None:
        self.convolutions = [Convolution(stage, constants) for stage in node.need("stages")]
        self._plans = StripesByShape()

    def run(self, x: Array, *given: Array | None) -> Array:
        """y; of what is given beside x only a residual is not None."""
        residual = given[-1] if given else None
        plan = self._plan(x)
        if plan is None or (residual is not None and as_lies(residual, True).shape != plan.y_shape):
            return self._one_by_one(x, residual)
        added = None if residual is None else as_lies(residual, True)
        return as_first(plan(as_lies(x, True), residual=added), True)

    def how(self, x: Array, *given: Array | None) -> str:
        """The plan in a few words."""
        plan = self._plan(x)
        if plan is not None:
            return f"stripes of {plan.stripe} rows"
        plans = []
        for convolution in self.convolutions:
            plans.append(describe(convolution.plan(x)))
            x = convolution.run_packed(x, None)
        return ", ".join(plans)

    def _one_by_one(self, x: Array, residual: Array | None) -> Array:
        *first, last = self.convolutions
        for convolution in first:
            x = convolution.run_packed(x, None)
        return last.run_packed(x, None, None, residual)

    def _plan(self, x: Array) -> PlannedStripes | None:
        """For x as it lies, if its channels lie last and it pays."""
        if x.ndim != 4 or not lies_last(x):
            return None
        return self._plans(as_lies(x, True).shape, partial(self._stages, x.shape))

    def _stages(self, x_shape: tuple[int, ...]) -> list[Stage]:
        stages, size = [], x_shape[2:]
        for convolution in self.convolutions:
            assert convolution.packed is not None
            options: dict[str, Any] = convolution.options(convolution.windows, (*x_shape[:2], *size))
            weight, bias = convolution.packed.weight, convolution.packed.bias
            stages.append(Stage(weight, bias, **options, activation=convolution.activation))
            size = convolution.windows.counts(size)
        return stages


@operator("Stripes")
def _stripes(node: Node, constants: Constants) -> Kernel:
    stripes = Stripes(node, constants)
    return Kernel(floating(stripes.run), stripes.how, bound=tuple(range(1, 1 + 2 * len(stripes.convolutions))))
