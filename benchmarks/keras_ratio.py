"""Keras's NumPy backend with and without fastconv: its layers, and whole networks of `keras.applications`.

    python -m benchmarks.keras_ratio [--filter REGEX] [--rounds N] [--threads N] [--json FILE] [--markdown]

Both run in processes of their own, one awake at a time, and are timed in turn, as engines of `bench` are. Layers are
called as in a model's inference, so that Keras's own work and its addition of the bias count, and fastconv keeps their
kernels packed. Weights are random, from one seed; the results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.progress import track
from rich.table import Table

from fastconv import runtime

from .engines import Engine, EngineError, distance, started
from .layer import Array
from .report import console, duration, environment, geometric_mean, write_json
from .timing import Spread
from .worker import Session

FAR = 1e-4  # relative L2: networks of random weights, in float32


class Case(NamedTuple):
    """A layer of Keras or, where `network` says so, a network, and the shape of its input, channels last."""

    name: str
    maker: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    network: bool = False


def _layer(name: str, maker: str, *shape: int, **arguments: Any) -> Case:
    return Case(name, maker, arguments, shape)


SAME = {"padding": "same"}
CASES = (
    _layer("conv 7x7 stride 2", "Conv2D", 8, 224, 224, 3, filters=64, kernel_size=7, strides=2, **SAME),
    _layer("conv 3x3, 64 channels", "Conv2D", 8, 56, 56, 64, filters=64, kernel_size=3, **SAME),
    _layer("conv 3x3, 256 channels", "Conv2D", 8, 14, 14, 256, filters=256, kernel_size=3, **SAME),
    _layer("conv 3x3 stride 2", "Conv2D", 8, 56, 56, 128, filters=128, kernel_size=3, strides=2, **SAME),
    _layer("conv 1x1", "Conv2D", 8, 14, 14, 256, filters=1024, kernel_size=1),
    _layer("conv 3x3, 32 groups", "Conv2D", 8, 56, 56, 128, filters=128, kernel_size=3, groups=32, **SAME),
    _layer("conv 3 taps dilated by 4", "Conv1D", 8, 4096, 64, filters=64, kernel_size=3, dilation_rate=4, **SAME),
    _layer("conv 3x3x3", "Conv3D", 1, 16, 56, 56, 64, filters=64, kernel_size=3, **SAME),
    _layer("depthwise 3x3", "DepthwiseConv2D", 8, 56, 56, 144, kernel_size=3, **SAME),
    _layer("depthwise 3x3 stride 2", "DepthwiseConv2D", 8, 112, 112, 96, kernel_size=3, strides=2, **SAME),
    _layer("separable 3x3", "SeparableConv2D", 8, 28, 28, 128, filters=256, kernel_size=3, **SAME),
    _layer(
        "transposed 4x4 stride 2", "Conv2DTranspose", 16, 16, 16, 256, filters=128, kernel_size=4, strides=2, **SAME
    ),
    _layer("max 3x3 stride 2", "MaxPooling2D", 8, 112, 112, 64, pool_size=3, strides=2, **SAME),
    _layer("max 2x2", "MaxPooling2D", 8, 56, 56, 256, pool_size=2),
    _layer("average 2x2", "AveragePooling2D", 8, 56, 56, 256, pool_size=2),
    _layer("average 3x3 stride 1", "AveragePooling2D", 8, 28, 28, 256, pool_size=3, strides=1, **SAME),
    Case("MobileNetV2, batch 1", "MobileNetV2", {"weights": None}, (1, 224, 224, 3), network=True),
    Case("ResNet-50, batch 1", "ResNet50", {"weights": None}, (1, 224, 224, 3), network=True),
)


def prepare(session: Session, name: str, with_fastconv: bool) -> Array:
    """Get the case of this name ready in this process and run it once."""
    os.environ["KERAS_BACKEND"] = "numpy"
    import keras

    if with_fastconv:
        from fastconv.backends.keras import enable

        enable()
    case = next(case for case in CASES if case.name == name)
    keras.utils.set_random_seed(0)
    makers = keras.applications if case.network else keras.layers
    call = getattr(makers, case.maker)(**case.arguments)
    x = np.random.default_rng(0).standard_normal(case.shape, dtype=np.float32)
    session.call = lambda: call(x)
    return np.asarray(session.call())


def versions(session: Session) -> dict[str, str]:
    """What is compared."""
    import jax
    import keras

    return {"keras": keras.__version__, "jax": jax.__version__}


def measure(engines: Sequence[Engine], case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """A row: median and quartiles of Keras and of Keras on fastconv."""
    own, ours = (
        engine.run("keras_ratio:prepare", case.name, with_fastconv)
        for engine, with_fastconv in zip(engines, (False, True), strict=True)
    )
    apart = distance(own[None], ours[None])
    if own.shape != ours.shape or not apart <= FAR:
        raise EngineError(f"{case.name}: the results are {apart:.2g} apart (relative L2)")
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for taken, engine in zip(times, engines, strict=True):
            taken.append(engine.run("worker:time_round", seconds).seconds)
    keras, fastconv = map(Spread.of, times)
    ratio = Spread.of(a / b for a, b in zip(*times, strict=True))
    return {
        "case": case.name, "shape": case.shape, "keras": keras._asdict(), "fastconv": fastconv._asdict(),
        "ratio": ratio._asdict(),
    }  # fmt: skip


def show(rows: Sequence[dict[str, Any]], markdown: bool = False) -> None:
    """The table."""
    table = Table("case", "input", box=box.MARKDOWN if markdown else box.HEAVY_HEAD)
    for column in ("Keras", "on fastconv", "ratio", "quartiles"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        ratio = row["ratio"]
        table.add_row(
            row["case"], "x".join(map(str, row["shape"])), duration(row["keras"]["median"]),
            duration(row["fastconv"]["median"]), f"{ratio['median']:.2f}", f"{ratio['low']:.2f} - {ratio['high']:.2f}",
        )  # fmt: skip
    out = console()
    out.print(table)
    out.print(f"geometric mean of the ratios: {geometric_mean(row['ratio']['median'] for row in rows):.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keras_ratio", description=__doc__)
    parser.add_argument("--filter", type=re.compile, metavar="REGEX", help="only cases whose name matches it")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=0.1, metavar="S", help="of a round; default: %(default)s")
    parser.add_argument("--threads", type=int, default=runtime.get_num_threads(), metavar="N", help="default: all")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.filter is None or options.filter.search(case.name)]
    if not cases:
        parser.error(f"--filter matches none of the cases, which are {', '.join(case.name for case in CASES)}")
    with started([Engine("fastconv", options.threads) for _ in range(2)]) as engines:
        rows = [
            measure(engines, case, options.rounds, options.seconds)
            for case in track(cases, "measuring", transient=True, console=console())
        ]
        loaded = engines[0].run("keras_ratio:versions")
    show(rows, options.markdown)
    if options.json:
        write_json(options.json, environment(options.threads, None, loaded), rows=rows)


if __name__ == "__main__":
    main()
