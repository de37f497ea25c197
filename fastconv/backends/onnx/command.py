"""`python -m fastconv run`: run a model file, say what it computes, and how long each step takes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastconv import functional as F
from fastconv import plots, runtime
from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.kernels import Array
from fastconv.backends.onnx.session import Profile, Session, Value
from fastconv.prediction import cut_picture, open_picture

RUNS = 10  # of a profile: the fastest of each step counts
CLASSES = 5  # likeliest ones that are shown
WIDTH = 160  # characters of a line that goes into a file
BARS = 40  # longest steps that a chart shows by themselves
# What pictures are scaled by for networks trained on ImageNet, as torchvision does: (pixel / 255 - mean) / deviation.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")


def run(options: argparse.Namespace) -> int:
    """Run the model that the options name, and print what they ask for.

    Raises
    ------
    ModelError
        If the model or its input is wrong, in one line.
    OSError
        If a file cannot be read or written.
    """
    if options.threads:
        runtime.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    session = Session(options.model, data_format=options.data_format)
    feeds = _feeds(session, options)
    if options.profile or options.chart:
        profile = session.profile(feeds, RUNS)
        outputs = profile.outputs
    else:
        profile, outputs = None, session.run(None, feeds)
    for value, output in zip(session.get_outputs(), outputs, strict=True):
        _show(console, value, output)
    if profile and options.profile:
        console.print(_table(profile))
        console.print(f"{len(profile.timings)} layers; a run takes {_ms(profile.seconds)} ms; {_machine()}")
    if profile and options.chart:
        _draw(options.chart, profile, f"{Path(options.model).name}, {_machine()}")
        console.print(f"drawn in {escape(options.chart)}")
    return 0


def _feeds(session: Session, options: argparse.Namespace) -> dict[str, Any]:
    """The inputs that the options name, or random ones."""
    inputs = session.get_inputs()
    if options.input:
        return _read(options.input, inputs)
    if options.image:
        if len(inputs) != 1:
            raise ModelError(f"--image is for models of one input, this one has {len(inputs)}: give --input X.npz")
        return {inputs[0].name: _picture(options.image, inputs[0])}
    rng = np.random.default_rng(0)
    return {value.name: _random(value, rng) for value in inputs}


def _read(path: str, inputs: Sequence[Value]) -> dict[str, Any]:
    """A .npy file for the only input, or a .npz file with an array of each input's name."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise ModelError(f"{path}: not a file of NumPy arrays ({' '.join(str(error).split())})") from error
    if isinstance(loaded, np.ndarray):
        if len(inputs) != 1:
            raise ModelError(f"{path} holds one array, the model has {len(inputs)} inputs: give a .npz file by names")
        return {inputs[0].name: _as_declared(loaded, inputs[0])}
    with loaded:
        arrays = {name: loaded[name] for name in loaded.files}
    declared = {value.name: value for value in inputs}
    return {name: _as_declared(a, declared[name]) if name in declared else a for name, a in arrays.items()}


def _as_declared(array: Array, value: Value) -> Array:
    """Floats in the model's precision; NumPy's own files are float64 more often than models are."""
    both = array.dtype.kind == "f" and value.type in FLOATS
    return array.astype(_dtype(value)) if both else array


def _dtype(value: Value) -> np.dtype[Any]:
    element = value.type.removeprefix("tensor(").removesuffix(")").upper()
    if element not in dict(onnx.TensorProto.DataType.items()):
        raise ModelError(f"input {value.name!r} is a {value.type}: give --input")
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(element)))


def _random(value: Value, rng: np.random.Generator) -> Array:
    """Normal numbers for floats and zeros for all else; a batch that is left open is 1."""
    dtype, sizes = _dtype(value), list(value.shape or ())
    if sizes and not isinstance(sizes[0], int):
        sizes[0] = 1
    if value.shape is None or not all(isinstance(size, int) for size in sizes):
        raise ModelError(f"input {value.name!r} has no fixed shape, {value.shape}: give --input or --image")
    shape = tuple(int(size) for size in sizes if size is not None)
    return rng.standard_normal(shape).astype(dtype) if value.type in FLOATS else np.zeros(shape, dtype)


def _picture(path: str, value: Value) -> Array:
    """A picture file as (1, C, H, W): cut to the input's shape and scaled; colours as ImageNet's, greys to 0..1."""
    sizes = value.shape or []
    if len(sizes) != 4 or sizes[1] not in (1, 3) or not all(isinstance(size, int) for size in sizes[2:]):
        raise ModelError(f"--image is for an input of (N, 1 or 3, H, W), {value.name!r} has shape {value.shape}")
    if value.type not in FLOATS:
        raise ModelError(f"--image is for an input of floats, {value.name!r} is a {value.type}")
    _, channels, height, width = (int(size) if isinstance(size, int) else 1 for size in sizes)
    pixels = cut_picture(open_picture(Path(path)), channels, (width, height)).astype(np.float64) / 255
    if channels == 3:
        pixels = (pixels - np.reshape(MEAN, (3, 1, 1))) / np.reshape(DEVIATION, (3, 1, 1))
    batch = sizes[0] if isinstance(sizes[0], int) else 1
    return np.repeat(pixels, batch, axis=0).astype(_dtype(value))


def _show(console: Console, value: Value, output: Any) -> None:
    """An output's name, type and shape, and the likeliest classes if it looks like scores of classes."""
    if not isinstance(output, np.ndarray):
        console.print(f"{escape(value.name)}: {escape(value.type)}")
        return
    console.print(f"{escape(value.name)}: {output.dtype} {tuple(output.shape)}")
    scores = output.reshape(output.shape[:2]) if output.ndim >= 2 and output.size == np.prod(output.shape[:2]) else None
    if scores is None or scores.dtype.kind != "f" or not 2 <= scores.shape[1] <= 100_000:
        return
    for number, row in enumerate(_probabilities(scores.astype(np.float64))):
        likeliest = np.argsort(-row, kind="stable")[:CLASSES]
        shown = ", ".join(f"class {index} {row[index]:.2%}" for index in likeliest)
        console.print(f"  {number}: {shown}" if len(scores) > 1 else f"  {shown}")


def _probabilities(scores: Array) -> Array:
    """Scores as they are if they are probabilities already, else their softmax."""
    sums = scores.sum(1)
    return scores if (scores >= 0).all() and np.allclose(sums, 1, atol=1e-3) else F.softmax(scores, axis=1)


def _table(profile: Profile) -> Table:
    """A line a step: how long it took, its share, and what ran."""
    total = sum(step.seconds for step in profile.timings)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("operators", overflow="fold")
    table.add_column("output", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("plan")
    for step in profile.timings:
        shape = "x".join(map(str, step.shape)) or "-"
        share = f"{step.seconds / total:.1%}" if total else "-"
        table.add_row(Text(step.name), step.operator, shape, _ms(step.seconds), share, Text(step.plan))
    return table


def _draw(path: str, profile: Profile, title: str) -> None:
    """A bar a step, in the order in which they run; many short ones as one."""
    longest = sorted(profile.timings, key=lambda step: -step.seconds)[:BARS]
    least = longest[-1].seconds if len(profile.timings) > BARS else 0.0
    shown = [step for step in profile.timings if step.seconds >= least]
    rest = sum(step.seconds for step in profile.timings) - sum(step.seconds for step in shown)
    names, seconds = [step.name for step in shown], [step.seconds for step in shown]
    plans = [step.plan for step in shown]
    if len(shown) < len(profile.timings):
        names.append(f"{len(profile.timings) - len(shown)} shorter ones")
        seconds.append(rest)
        plans.append("shorter ones")
    try:
        plots.layer_times(path, names, seconds, plans, title)
    except ValueError as error:  # matplotlib's, which names the formats that it knows
        raise ModelError(f"--chart {path}: {' '.join(str(error).split())}") from error


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f}"


def _machine() -> str:
    return f"{runtime.get_isa()}, {runtime.get_num_threads()} threads"
