"""How near large layers come to this machine's ceilings, and what the smallest call costs.

    python -m benchmarks.floors [--quick] [--filter REGEX] [--isa NAME] [--json FILE]

Dense convolutions are held against the peak of multiply-adds, pools against copies of as many bytes as they read and
write, in either case measured right before and after them in the same round: the ratios' median and quartiles over the
rounds are what counts on a machine whose clock wanders. Weights are packed ahead, as layers have them after `eval()`.
The products of the definition with the input count, not those with its padding: an algorithm that needs fewer of them
can exceed the peak. Results are compared with PyTorch's where it is installed, else with
those of the other layouts, ISAs and threads, before they are timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.progress import track
from rich.table import Table

from fastconv import runtime

from . import adapters, ceilings
from .engines import Contestant, Engine, check_agreement, race, started
from .layer import LAYOUTS, Array, Layer
from .report import console, duration, environment, write_json
from .shapes import conv, find, named
from .task import Task
from .timing import Spread
from .worker import Session

DTYPES = ("float32", "float64")

# 3x3 at every depth of a network, strided, 1x1, dilated, 5x5 transposed, 3-D and 1-D.
CONVS = (
    "vgg16/conv1_2/b1",
    "vgg16/conv3_2/b1",
    "vgg16/conv5_1/b4",
    "resnet50/conv3_1b/b8",
    "resnet50/conv4_1c/b8",
    "deeplabv3/block4_d4/b1",
    "dcgan/conv2/b16",
    "c3d/conv3b/b1",
    "m5/conv4/b8",
)
QUICK_CONVS = ("vgg16/conv3_2/b1", "resnet50/conv3_2b/b8", "resnet50/conv4_1c/b8")
POOLS = (
    "alexnet/pool1/b8",
    "vgg16/pool1/b4",
    "vgg16/pool4/b4",
    "googlenet/3a_pool/b8",
    "resnet50/pool1/b8",
    "resnet50/pool5/b8",
    "m5/pool1/b8",
    "c3d/pool2/b1",
)
QUICK_POOLS = ("vgg16/pool4/b4", "googlenet/3a_pool/b8", "resnet50/pool1/b8")
CALLS = (
    conv("1x1x8x8", 1, 1, 8, 3, padding=1, bias=False),
    conv("1x8x8x8", 8, 8, 8, 3, padding=1, bias=False),
)

CONV_FLOOR = 0.75  # of the peak of multiply-adds
POOL_FLOOR = 0.50  # of the copy bandwidth
CALL_FLOOR = 10e-6  # seconds, of the first of CALLS
STEADY = 0.9  # of its best in the run: where the ceiling itself is lower, somebody else uses the machine


def against(session: Session, ceiling: Callable[[], float], work: float, rounds: int, seconds: float) -> list[Any]:
    """(rate, ceiling) of the prepared layer in every round, the ceiling being the higher of before and after."""
    start = time.perf_counter()
    session.call()
    calls = range(max(1, round(seconds / (time.perf_counter() - start))))
    pairs = []
    for _ in range(rounds):
        before = ceiling()
        start = time.perf_counter()
        for _ in calls:
            session.call()
        rate = work * len(calls) / (time.perf_counter() - start)
        pairs.append((rate, max(before, ceiling())))
    return pairs


def against_fma(session: Session, dtype: str, operations: float, rounds: int, seconds: float) -> list[Any]:
    """Floating-point operations a second, beside the peak."""
    return against(session, ceilings.fma(dtype), operations, rounds, seconds)


def against_copy(session: Session, footprint: int, rounds: int, seconds: float) -> list[Any]:
    """Bytes a second, beside copies of as many."""
    return against(session, ceilings.copy(footprint), footprint, rounds, seconds)


def configurations(isas: tuple[str, ...]) -> Iterator[tuple[str, str, int, str]]:
    """Every ISA, dtype, number of threads and layout."""
    for isa in isas:
        for dtype in DTYPES:
            for threads in ceilings.thread_counts():
                for data_format in LAYOUTS:
                    yield isa, dtype, threads, data_format


class Checked:
    """Results of a task so far, or PyTorch's: what the next one is compared with."""

    def __init__(self, peer: Engine | None) -> None:
        self.peer = peer
        self.known: dict[Task, tuple[str, tuple[Array | None, ...]]] = {}

    def check(self, task: Task, name: str, result: tuple[Array | None, ...]) -> None:
        if task not in self.known:
            self.known = {k: v for k, v in self.known.items() if k.layer == task.layer}  # one layer's at a time
            self.known[task] = (name, result)
            if self.peer is not None:
                first = self.peer.run("worker:prepare", task, LAYOUTS[0])
                self.known[task] = (self.peer.name, first.arrays)
        check_agreement(task, *self.known[task], name, result)


def shares(
    engine: Engine, checked: Checked, layer: Layer, isas: tuple[str, ...], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Rows of one layer: its rate and share of the ceiling in every configuration."""
    rows = []
    for isa, dtype, threads, data_format in configurations(isas):
        engine.run("ceilings:configure", isa, threads)
        task = Task(layer, dtype, "layer")
        first = engine.run("worker:prepare", task, data_format)
        checked.check(task, f"{isa}, {threads} threads, {data_format}", first.arrays)
        if layer.pools:
            work = task.compulsory_bytes
            pairs = engine.run("floors:against_copy", work, rounds, seconds)
        else:
            work = 2 * task.multiply_adds
            pairs = engine.run("floors:against_fma", dtype, work, rounds, seconds)
        share = Spread.of(rate / ceiling for rate, ceiling in pairs)
        rows.append({
            "layer": layer.name, "work": work, "isa": isa, "dtype": dtype, "threads": threads, "layout": data_format,
            "rate": Spread.of(rate for rate, _ in pairs).median, "ceiling": Spread.of(c for _, c in pairs).median,
            "share": share.median, "share_low": share.low, "share_high": share.high,
        })  # fmt: skip
    return rows


def smallest_calls(engine: Engine, peer: Engine | None, isa: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of the time of a call that has next to nothing to compute."""
    engine.run("ceilings:configure", isa, runtime.get_num_threads())
    contestants = [Contestant(e, "channels_first") for e in (engine, peer) if e is not None]
    rows = []
    for layer in CALLS:
        results, _ = race(contestants, Task(layer), rounds, 0.02)
        rows += [
            {"call": layer.layer, "engine": c.engine.name, **results[c.name].spread._asdict()} for c in contestants
        ]
    return rows


def show_shares(title: str, unit: str, floor: float, rows: list[dict[str, Any]]) -> None:
    """One table: a line a layer, ISA and dtype, a column a layout and number of threads."""
    if not rows:
        return
    columns = [(threads, layout) for threads in ceilings.thread_counts() for layout in LAYOUTS]
    table = Table("layer", "isa", "dtype", title=title)
    for threads, layout in columns:
        table.add_column(f"{layout}\n{threads} thread{'s' * (threads > 1)}", justify="right")
    lines: dict[tuple[str, str, str], dict[tuple[int, str], str]] = {}
    for row in rows:
        line = lines.setdefault((row["layer"], row["isa"], row["dtype"]), {})
        line[row["threads"], row["layout"]] = _cell(row, floor)
    for key, cells in lines.items():
        table.add_row(*key, *(cells[column] for column in columns))
    missed = sum(row["share"] < floor for row in rows)
    unsteady = sum(not row["steady"] for row in rows)
    out = console()
    out.print(table)
    out.print(f"{unit}, share of the ceiling, its quartiles over the rounds.")
    out.print(f"{missed} of {len(rows)} below the floor, {floor:.0%} (*); {unsteady} while the ceiling was low (~)\n")


def _cell(row: dict[str, Any], floor: float) -> str:
    low = row["share"] < floor
    share = f"[red]{row['share']:.0%}[/]" if low else f"{row['share']:.0%}"
    marks = "*" * low + "~" * (not row["steady"])
    return f"{row['rate'] / 1e9:.1f} {share} {row['share_low']:.0%}-{row['share_high']:.0%}{marks:<2}"


def mark_steady(rows: list[dict[str, Any]], same: tuple[str, ...]) -> None:
    """Say of each row whether its ceiling was near the best of the rows that share these fields."""
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        key = tuple(row[field] for field in same)
        best[key] = max(best.get(key, 0), row["ceiling"])
    for row in rows:
        row["steady"] = row["ceiling"] >= STEADY * best[tuple(row[field] for field in same)]


def show_calls(rows: list[dict[str, Any]]) -> None:
    """The table of the smallest calls."""
    table = Table("call", "engine", "median", "quartiles", title=f"conv2d 3x3, one call; floor {duration(CALL_FLOOR)}")
    for row in rows:
        quartiles = f"{duration(row['low'])} - {duration(row['high'])}"
        table.add_row(row["call"], row["engine"], duration(row["median"]), quartiles)
    console().print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few layers and rounds: under two minutes")
    parser.add_argument("--filter", metavar="REGEX", help="only layers whose name or operator matches it")
    parser.add_argument("--isa", help="one ISA instead of all that this machine has")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    isas = (options.isa,) if options.isa else runtime.available_isas()
    rounds, seconds = (5, 0.02) if options.quick else (15, 0.05)
    convs, pools = (QUICK_CONVS, QUICK_POOLS) if options.quick else (CONVS, POOLS)
    threads = runtime.get_num_threads()
    names = ["fastconv", *(["torch"] if not adapters.missing("torch") else [])]
    with started([Engine(name, threads) for name in names]) as engines:
        engine, peer = engines[0], engines[1] if len(engines) > 1 else None
        calls = smallest_calls(engine, peer, isas[0], 3 * rounds)
        checked = Checked(peer)
        layers = find(options.filter, map(named, (*convs, *pools)))
        rows = [
            (layer, shares(engine, checked, layer, isas[:1] if layer.pools else isas, rounds, seconds))
            for layer in track(layers, "measuring", transient=True, console=console())
        ]
        versions = peer.run("worker:versions") if peer else {}
    dense = [row for layer, of_layer in rows if not layer.pools for row in of_layer]
    pooled = [row for layer, of_layer in rows if layer.pools for row in of_layer]
    mark_steady(dense, ("isa", "dtype", "threads"))
    mark_steady(pooled, ("work", "threads"))
    show_shares("Dense convolutions, share of the peak of multiply-adds", "GFLOP/s", CONV_FLOOR, dense)
    show_shares("Pools, share of copy bandwidth at their footprint", "GB/s", POOL_FLOOR, pooled)
    show_calls(calls)
    if options.json:
        write_json(options.json, environment(threads, options.isa, versions), convs=dense, pools=pooled, calls=calls)


if __name__ == "__main__":
    main()
