"""A model, ready to run, in ONNX Runtime's spelling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import onnx

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.layout import lying_last
from fastconv.backends.onnx.model import Source, read
from fastconv.backends.onnx.passes import optimize
from fastconv.backends.onnx.program import Program
from fastconv.backends.onnx.shuffles import join_shuffles
from fastconv.backends.onnx.step import Step
from fastconv.backends.onnx.stripes import join_depthwise
from fastconv.geometry import is_channels_last

Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class Value:
    """An input or output of a model.

    Attributes
    ----------
    name : its name
    shape : a size, a name or None (unknown) for each axis; None where not even their number is known
    type : as ONNX Runtime writes it, such as "tensor(float)"
    """

    name: str
    shape: list[int | str | None] | None
    type: str


@dataclass(frozen=True)
class Timing:
    """What one step of a run took.

    Attributes
    ----------
    name : the node's operator and name; the convolution's for a fused one
    operator : the operators that it computes, joined by "+"
    shape : of its first output; of one image's where that is run for each by itself
    seconds : the least of all runs
    plan : what ran: an algorithm and packing of fastconv, another of its kernels, NumPy, or onnx's reference evaluator
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    seconds: float
    plan: str


@dataclass(frozen=True)
class Profile:
    """The outputs of a run, the steps in their order, and the seconds of the fastest run, steps and all."""

    outputs: list[Any]
    timings: list[Timing]
    seconds: float


class Session:
    """A model on fastconv's kernels.

    Constants and batch normalizations are folded, convolutions and products take over what follows them, and weights
    are packed once for each of the last four shapes of their input. Any number of threads may run it.

    Parameters
    ----------
    model
        Path of a file, its bytes, or a `ModelProto`.
    data_format
        Where channels lie inside: "channels_last" (default), in which most models run faster, or "channels_first", as
        the model has them. Inputs and outputs are the same, results but for rounding.

    Raises
    ------
    ValueError
        If data_format is neither.
    ModelError
        If it is not a model, or a node is not supported; the message, of one line, names the node.
    OSError
        If the file cannot be read.
    """

    def __init__(self, model: Source, *, data_format: str = "channels_last") -> None:
        last = is_channels_last(data_format)
        graph = read(model)
        self._inputs = tuple(map(_value, graph.inputs))
        self._outputs = tuple(map(_value, graph.outputs))
        self._types = {value.name: value.type for value in graph.inputs}
        optimize(graph)
        if last:
            join_depthwise(graph)
            join_shuffles(graph)
        convolved = {node.inputs[0] for node in graph.nodes if node.op in ("Conv", "ConvTranspose", "Stripes")}
        self._turned = convolved if last else set()
        self._program = Program(graph)

    def get_inputs(self) -> list[Value]:
        """What must be fed."""
        return list(self._inputs)

    def get_outputs(self) -> list[Value]:
        """What is computed."""
        return list(self._outputs)

    def run(self, output_names: Iterable[str] | Feeds | None, input_feed: Feeds | None = None) -> list[Any]:
        """Return the outputs of these names, or all of them for None, for a mapping from input names to arrays.

        ``run(feeds)`` is short for ``run(None, feeds)``.

        Raises
        ------
        ModelError
            If an input is missing, unknown, or has not the declared dtype or shape, if there is no such output, or
            if a node's inputs do not fit each other.
        """
        if input_feed is None:
            if not isinstance(output_names, Mapping):
                raise TypeError("run takes output names, or None, and a mapping from input names to arrays")
            return self.run(None, output_names)
        if not isinstance(input_feed, Mapping):
            raise TypeError(f"input_feed must be a mapping from input names to arrays, got {type(input_feed).__name__}")
        wanted = self._positions(output_names)
        results = self._program.run(self._checked(input_feed))
        return [results[position] for position in wanted]

    def profile(self, input_feed: Feeds, runs: int = 1) -> Profile:
        """Run it once to plan and pack, then `runs` times, and tell how long each step took.

        Raises
        ------
        ModelError
            As in `run`.
        """
        feeds = self._checked(input_feed)
        timings: dict[Step, Timing] = {}

        def describe(step: Step, *observed: Any) -> None:
            if step not in timings:  # which is run for each image by itself
                timings[step] = _timing(step, *observed)

        outputs = self._program.run(feeds, describe)
        least, whole = dict.fromkeys(timings, np.inf), np.inf
        for _ in range(max(1, runs)):
            seconds = dict.fromkeys(timings, 0.0)
            start = perf_counter()
            self._program.run(feeds, lambda step, *observed, to=seconds: to.update({step: to[step] + observed[-1]}))
            whole = min(whole, perf_counter() - start)
            least = {step: min(time, seconds[step]) for step, time in least.items()}
        timed = [replace(timing, seconds=least[step]) for step, timing in timings.items()]
        return Profile(outputs, timed, whole)

    def _positions(self, names: Any) -> list[int]:
        known = [value.name for value in self._outputs]
        if names is None:
            return list(range(len(known)))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(f"the model has no output {unknown[0]!r}, its outputs are {', '.join(map(repr, known))}")
        return [known.index(name) for name in names]

    def _checked(self, feeds: Feeds) -> dict[str, Any]:
        for name in feeds:
            if name not in self._types:
                known = ", ".join(map(repr, self._types)) or "none"
                raise ModelError(f"the model has no input {name!r}, its inputs are {known}")
        for name, type_ in self._types.items():
            if name not in feeds and not type_.HasField("optional_type"):
                raise ModelError(f"input {name!r} of the model must be given")
        values = {name: _checked_value(name, feeds.get(name), type_) for name, type_ in self._types.items()}
        return values | {name: lying_last(values[name]) for name in self._turned.intersection(values)}


def _timing(step: Step, inputs: list[Any], results: tuple[Any, ...], seconds: float) -> Timing:
    how = step.kernel.how
    return Timing(
        step.node.title, "+".join(step.node.parts or (step.node.op,)), np.shape(results[0]), seconds,
        how if isinstance(how, str) else how(*inputs),
    )  # fmt: skip


def _checked_value(name: str, value: Any, declared: Any) -> Any:
    """The value as kernels take it, an array for a tensor."""
    if not declared.HasField("tensor_type"):
        return value
    tensor = declared.tensor_type
    array = np.asarray(value)
    if tensor.elem_type:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if array.dtype != dtype and not (dtype.hasobject and array.dtype.kind in "UOST"):
            raise ModelError(f"input {name!r} must have dtype {dtype}, got {array.dtype}")
        array = array.astype(dtype, copy=False)  # strings are objects
    shape = _shape(declared)
    if shape is not None and not _fits(array.shape, shape):
        shown = ", ".join("?" if size is None else str(size) for size in shape)
        raise ModelError(f"input {name!r} must have shape ({shown}), got {array.shape}")
    return array


def _fits(shape: tuple[int, ...], declared: list[int | str | None]) -> bool:
    pairs = zip(shape, declared, strict=False)
    return len(shape) == len(declared) and all(n == d for n, d in pairs if isinstance(d, int))


def _shape(declared: Any) -> list[int | str | None] | None:
    if not declared.tensor_type.HasField("shape"):
        return None
    sizes = declared.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in sizes]


def _value(info: Any) -> Value:
    return Value(info.name, _shape(info.type), _type(info.type))


def _type(declared: Any) -> str:
    """Such as tensor(float) or seq(tensor(int64))."""
    if declared.HasField("tensor_type"):
        return f"tensor({_ELEMENTS.get(declared.tensor_type.elem_type, 'unknown')})"
    if declared.HasField("sequence_type"):
        return f"seq({_type(declared.sequence_type.elem_type)})"
    if declared.HasField("optional_type"):
        return f"optional({_type(declared.optional_type.elem_type)})"
    return "unknown"


_ELEMENTS = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
