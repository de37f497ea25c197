"""The first steps of a network, image by image.

Early layers of light networks make much and multiply little: of a batch of eight, MobileNetV2's widest value has 38 MB,
which go to memory and come back, while one image's 5 MB stay in a cache. So its first steps are run for one image after
the other, as long as that is expected to save more than it costs to begin each step anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from fastconv.backends.onnx.graph import Array, Graph, Node
from fastconv.backends.onnx.layout import as_first, lies_last
from fastconv.backends.onnx.step import Observer, Step, Values, run_steps
from fastconv.backends.onnx.windows import windows_of
from fastconv.kernels.memory import empty

# What one image gives does not hang on the others, and the first axis of all values is that of images.
CONVOLUTIONS = ("Conv", "ConvTranspose")
PER_IMAGE = (*CONVOLUTIONS, "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool",
             "GlobalMaxPool", "GlobalLpPool")  # fmt: skip
SUMS = ("Add", "Sum")
ELEMENTWISE = (*SUMS, "Affine", "LRN", "Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Clip", "HardSigmoid",
               "HardSwish", "Gelu", "Silu")  # fmt: skip

# As many floating-point operations take as long, by two cores whose caches and memory move 100 and 40 GB/s.
BYTE_IN_CACHE, BYTE_IN_MEMORY, BEGINNING = 5.0, 12.5, 7.5e6
CACHE = 16 << 20  # bytes that one step may read and write for them to lie in a cache
WORTH = 0.1  # of the time that is expected without

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """Of one step and image: operations, and elements read and written."""

    operations: float
    elements: int

    def whole(self, images: int, size: int) -> float:
        """The operations that a step takes as long as, for all images at once."""
        bytes_moved = self.elements * size * images
        byte = BYTE_IN_CACHE if bytes_moved <= CACHE else BYTE_IN_MEMORY
        return max(self.operations * images, bytes_moved * byte) + BEGINNING

    def apart(self, images: int, size: int) -> float:
        """The same, image by image."""
        return self.whole(1, size) * images


class ImageWise:
    """Runs the first of some steps, as many as it pays for, image by image."""

    def __init__(self, graph: Graph, steps: Sequence[Step]) -> None:
        inputs = [value.name for value in graph.inputs]
        self._input = inputs[0] if len(inputs) == 1 else ""
        self._costs = _costs(graph, [step.node for step in steps], self._input)
        self._steps = steps
        self._needed: list[set[str]] = _needed(graph, steps, len(self._costs))
        self._counts: dict[tuple[int, int], int] = {}

    def run(self, values: Values, observer: Observer | None) -> int:
        """Make what the other steps read, and return how many steps were run."""
        if not self._costs:
            return 0
        x = values[self._input]
        count = self._count(len(x), x.itemsize) if len(x) > 1 else 0
        if count == 0:
            return 0
        made: dict[str, Array] = {}
        for image in range(len(x)):
            seen = {**values, self._input: x[image : image + 1]}
            run_steps(self._steps[:count], seen, observer)
            for name in self._needed[count]:
                _gather(made, name, seen[name], image, len(x))
        for step in self._steps[:count]:
            for name in step.frees:
                values.pop(name, None)
        values.update(made)
        return count

    def _count(self, images: int, size: int) -> int:
        """How many steps to take so, of elements of this size."""
        key = images, size
        if key not in self._counts:
            best, most, saved, whole = 0, 0.0, 0.0, 0.0
            for count, cost in enumerate(self._costs, 1):
                whole += cost.whole(images, size)
                saved += cost.whole(images, size) - cost.apart(images, size)
                if saved > max(most, WORTH * whole):
                    best, most = count, saved
            self._counts[key] = best
        return self._counts[key]


def _gather(made: dict[str, Array], name: str, y: Array, image: int, images: int) -> None:
    """Put one image's value where those of all are to be, which lie as the first does."""
    if name not in made:
        last = lies_last(y)
        shape = (images, *y.shape[2:], y.shape[1]) if last else (images, *y.shape[1:])
        made[name] = as_first(empty(shape, y.dtype), last)
    made[name][image] = y[0]


def _costs(graph: Graph, nodes: Sequence[Node], x: str) -> list[Cost]:
    """Of the first nodes, as many as can be run so."""
    size = graph.sizes.get(x)
    if size is None or len(size) < 3 or None in size[1:]:
        return []
    costs: list[Cost] = []
    of_images = {x: tuple(n or 0 for n in size[1:])}
    for node in nodes:
        cost = _cost(graph, node, of_images)
        if cost is None:
            break
        costs.append(cost)
    return costs


def _cost(graph: Graph, node: Node, of_images: dict[str, Sizes]) -> Cost | None:
    """Of a node whose images are its own, whose result's size is noted then; None for another."""
    if node.op == "Stripes":
        return _cost_of_stages(graph, node, of_images)
    inputs = [name for name in node.reads if name not in graph.constants]
    if node.domain or node.captured or len(node.outputs) != 1 or not of_images.keys() >= set(inputs):
        return None
    if node.op not in (*PER_IMAGE, *ELEMENTWISE) or (node.op in SUMS and len(inputs) != len(node.inputs)):
        return None
    weight = graph.constants.get(node.input(1)) if node.op in CONVOLUTIONS else None
    if node.op in CONVOLUTIONS and weight is None:
        return None
    y = _size(graph, node, of_images)
    if y is None or len({len(of_images[name]) for name in inputs} | {len(y)}) != 1:
        return None
    sizes = [prod(of_images[name]) for name in inputs]
    of_images[node.outputs[0]] = y
    made = sizes[0] if node.op == "ConvTranspose" else prod(y)
    terms = 0 if weight is None else prod(weight.shape[1:])
    return Cost(2.0 * terms * made, sum(sizes) + prod(y))


def _cost_of_stages(graph: Graph, stripes: Node, of_images: dict[str, Sizes]) -> Cost | None:
    """What is between the stages stays in a near cache."""
    operations = 0.0
    for stage in stripes.need("stages"):
        cost = _cost(graph, stage, of_images)
        if cost is None:
            return None
        operations += cost.operations
    moved = [name for name in (*stripes.reads, *stripes.outputs) if name not in graph.constants]
    return Cost(operations, sum(prod(of_images[name]) for name in moved))


def _size(graph: Graph, node: Node, of_images: dict[str, Sizes]) -> Sizes | None:
    """Of one image of a node's result, None if it is not known."""
    sizes = graph.sizes.get(node.outputs[0], (None,))[1:]
    if sizes and None not in sizes:
        return tuple(n or 0 for n in sizes)
    x, weight = of_images[node.inputs[0]], graph.constants.get(node.input(1))
    if node.op != "Conv" or weight is None or weight.ndim != len(x) + 1:
        return x if node.op in ELEMENTWISE else None
    windows = windows_of(node, weight.shape[2:])
    axes = zip(x[1:], windows.padding(x[1:]), windows.extents, windows.strides, strict=True)
    return weight.shape[0], *((n + sum(pads) - extent) // stride + 1 for n, pads, extent, stride in axes)


def _needed(graph: Graph, steps: Sequence[Step], most: int) -> list[set[str]]:
    """Of so many first steps, what others and the model's outputs read."""
    later = set(graph.output_names)
    needed: list[set[str]] = []
    for place in reversed(range(len(steps) + 1)):
        if place <= most:
            needed.append(later & {name for step in steps[:place] for name in step.node.outputs})
        if place:
            later |= {name for name in steps[place - 1].reads if name}
    return needed[::-1]
