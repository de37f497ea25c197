"""The tasks that a network's convolutions are cut into, and the share of a team's time that the cut leaves idle.

    python -m benchmarks.tasks [--network NAME] [--batch N,N] [--threads N,N] [--isa NAME]

Nothing is run: plans tell the cost of every task, packing and transforms included where a team does them in steps of
their own. A team takes the tasks of a step one by one, or each thread those of its own stretch and then the others',
and meets at its end, so a step takes as long as its busiest thread, and idle is 1 - work / (threads * time), over all
steps.
"""

from __future__ import annotations

import argparse
import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from rich.table import Table

from fastconv import runtime
from fastconv.geometry import ConvGeometry
from fastconv.planner import ConvPlan

from .layer import LAYOUTS, Layer
from .report import console
from .shapes import NETWORKS, geometry_of, named

IDLE = 0.1  # of a team's time, the most that a layer should leave


class Row(NamedTuple):
    """One layer's cut for so many threads; `work` of all tasks and `time` of the team in the cost model's units."""

    layer: Layer
    layout: str
    threads: int
    algorithm: str
    tasks: int
    steps: int
    work: float
    time: float


def busiest(costs: Iterable[float], threads: int, stretches: int = 1) -> float:
    """The cost of the thread that ends last, where each takes the next task when it has done one.

    Tasks lie in so many stretches of neighbours; thread i begins with the i-th and goes on with those behind it.
    """
    waiting = [float(cost) for cost in costs]
    bounds = pairwise(len(waiting) * i // stretches for i in range(stretches + 1))
    queues = [deque(waiting[start:stop]) for start, stop in bounds]
    done = [(0.0, thread) for thread in range(threads)]
    for _ in waiting:
        time, thread = done[0]
        queue = next(q for i in range(stretches) if (q := queues[(thread + i) % stretches]))
        heapq.heapreplace(done, (time + queue.popleft(), thread))
    return max(done)[0]


def row_of(layer: Layer, layout: str, threads: int) -> Row:
    """The forward of a convolution in float32, with its weight packed ahead."""
    direction = "backward_input" if layer.operator == "conv_transpose" else "forward"
    geometry = geometry_of(layer, layout)
    assert isinstance(geometry, ConvGeometry)
    kernel, choice, _ = ConvPlan(geometry, np.dtype(np.float32)).planned(direction, prepared=True)
    steps = kernel.tasks(threads)
    stretches = threads if kernel.stretches else 1
    work, time = sum(map(sum, steps)), sum(busiest(costs, threads, stretches) for costs in steps)
    return Row(layer, layout, threads, choice.algorithm, sum(map(len, steps)), len(steps), float(work), time)


def idle(rows: Iterable[Row]) -> float:
    """The share of a team's time in which its threads wait, over layers as often as their network has them."""
    rows = list(rows)
    return 1 - sum(r.layer.times * r.work for r in rows) / sum(r.layer.times * r.threads * r.time for r in rows)


def kind(layer: Layer) -> str:
    """The convolutions that are cut alike, by and large."""
    return f"{'x'.join(map(str, layer.kernel))} stride {max(layer.stride)}"


def show(rows: Sequence[Row]) -> None:
    """A line a layer and layout, and one a kind: tasks in so many steps, and idle shares, red above `IDLE`."""
    threads = tuple(dict.fromkeys(row.threads for row in rows))
    layers = Table("layer", "layout", "algorithm", *(f"{n} threads" for n in threads))
    for layer, layout in dict.fromkeys((row.layer, row.layout) for row in rows):
        of_layer = [row for row in rows if (row.layer, row.layout) == (layer, layout)]
        cells = [f"{row.tasks} in {row.steps}, {_share(idle([row]))}" for row in of_layer]
        layers.add_row(layer.name, layout, of_layer[0].algorithm, *cells)
    console().print(layers)
    columns = tuple(dict.fromkeys((row.layer.batch, row.threads, row.layout) for row in rows))
    kinds = Table("idle", *(f"batch {batch}\n{n} threads\n{layout}" for batch, n, layout in columns))
    for name in (*dict.fromkeys(kind(row.layer) for row in rows), "all"):
        of_kind = [row for row in rows if name in ("all", kind(row.layer))]
        groups = ([r for r in of_kind if (r.layer.batch, r.threads, r.layout) == column] for column in columns)
        kinds.add_row(name, *(_share(idle(group)) for group in groups))
    console().print(kinds)


def _share(share: float) -> str:
    return f"[red]{share:.0%}[/]" if share > IDLE else f"{share:.0%}"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def main() -> None:
    networks = [name for name, rows in NETWORKS.items() if not any(row.deforms for row in rows)]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=networks, default="resnet50", help="default: %(default)s")
    parser.add_argument("--batch", type=_numbers, default=(1, 8), metavar="N,N", help="default: 1,8")
    parser.add_argument("--threads", type=_numbers, default=(16, 64), metavar="N,N", help="default: 16,64")
    parser.add_argument("--isa", choices=runtime.available_isas(), default=runtime.get_isa())
    options = parser.parse_args()
    runtime.set_isa(options.isa)
    network = [row for row in NETWORKS[options.network] if not row.pools]
    layers = [named(f"{row.network}/{row.layer}/b{batch}") for batch in options.batch for row in network]
    show([row_of(layer, layout, n) for layer in layers for layout in LAYOUTS for n in options.threads])


if __name__ == "__main__":
    main()
