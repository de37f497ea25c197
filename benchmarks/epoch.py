"""An epoch of `python -m fastconv train`, and of the same loop in PyTorch.

    python -m benchmarks.epoch [--data DIR] [--epochs N] [--optimizer NAME] [--threads N] [--json FILE]

Both begin with the same weights and see the same pictures in the same order, distorted by the same code; network, loss,
gradients, optimizer and test are the engine's own. PyTorch runs in either memory format, with its optimizer as it is
by default and fused; networks go without dropout, whose random numbers each engine draws for itself. Every engine has a
process of its own, one awake at a time; epochs are timed in turn, the first of each apart, and the losses of its steps
are compared. Writing the checkpoint does not count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track
from rich.table import Table

from fastconv import data, runtime, training
from fastconv.layers import Dropout

from . import adapters
from .adapters import OURS
from .engines import Engine, EngineError, started
from .report import console, duration, environment, write_json
from .timing import Spread
from .worker import Session

FAR = 1e-3  # relative: rounding that differs grows from step to step
TORCH = tuple(
    (f"PyTorch, {layout}{', fused' if fused else ''}", layout, fused)
    for fused in (False, True)
    for layout in ("channels_first", "channels_last")
)


@dataclass(frozen=True)
class Plan:
    """What is trained, and how."""

    dataset: data.Dataset
    options: training.Options

    @property
    def model(self) -> str:
        """The network that suits the dataset."""
        return training.DEFAULTS[self.dataset.name][0]


class Epoch(NamedTuple):
    """One epoch of one engine."""

    seconds: float
    losses: list[float]
    """The mean loss of the epoch so far, after each step."""
    test_loss: float


class Losses(training.Silent):
    """An observer that keeps the losses of the epoch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def step(self, epoch: int, loss: float, accuracy: float) -> None:
        self.seen.append(loss)


def prepare(session: Session, plan: Plan) -> None:
    """Get fastconv ready to train in this process."""
    dataset, options = plan.dataset, plan.options
    network, preparation, order = training.beginning(plan.model, dataset, options)
    for _, layer in network.named_layers():
        if isinstance(layer, Dropout):
            layer.p = 0.0
    optimizer = training.OPTIMIZERS[options.optimizer](network.parameters(), options.lr, options.weight_decay)
    losses = Losses()
    trainer = training.Trainer(network, optimizer, dataset, preparation, options, order, losses)
    session.call = epochs(trainer, losses)


def epochs(trainer: training.Trainer, losses: Losses) -> Callable[[], Epoch]:
    """What runs the next epoch."""
    todo = trainer.epochs()

    def call() -> Epoch:
        losses.seen.clear()
        start = time.perf_counter()
        record, _ = next(todo)
        return Epoch(time.perf_counter() - start, [*losses.seen], record["test_loss"])

    return call


def run(session: Session) -> Epoch:
    """The next epoch of what has been prepared in this process."""
    epoch: Epoch = session.call()
    return epoch


def contestants() -> list[tuple[str, str, tuple[Any, ...]]]:
    """Name, engine, and what prepare takes beside the plan; fastconv first."""
    torch = [] if adapters.missing("torch") else [(name, "torch", (layout, fused)) for name, layout, fused in TORCH]
    return [(OURS, OURS, ()), *torch]


def measure(engines: Sequence[Engine], names: Sequence[str], count: int) -> list[dict[str, Any]]:
    """A row an engine: its epochs, their median and quartiles, and their ratio to fastconv's of the same round.

    Raises
    ------
    EngineError
        If the losses of the first epoch differ.
    """
    firsts = [engine.run("epoch:run") for engine in engines]
    for name, first in zip(names, firsts, strict=True):
        if not apart(firsts[0], first) <= FAR:
            raise EngineError(f"{name}: losses are {apart(firsts[0], first):.2g} apart from {OURS}'s")
    rounds = track(range(count), "epochs", transient=True, console=console())
    seconds = np.array([[engine.run("epoch:run").seconds for engine in engines] for _ in rounds])
    return [
        {
            "engine": name, "first": first.seconds, "loss": first.losses[-1], "test_loss": first.test_loss,
            "apart": apart(firsts[0], first), "epoch": Spread.of(column)._asdict(),
            "ratio": Spread.of(column / seconds[:, 0])._asdict(),
        }
        for name, first, column in zip(names, firsts, seconds.T, strict=True)
    ]  # fmt: skip


def apart(one: Epoch, other: Epoch) -> float:
    """The largest relative difference of the losses after each step."""
    a, b = np.array(one.losses), np.array(other.losses)
    return float(np.max(np.abs(a - b) / a))


def show(rows: Sequence[dict[str, Any]], plan: Plan) -> None:
    """The table, and what it comes to."""
    out, dataset, options = console(), plan.dataset, plan.options
    title = f"{plan.model} on {len(dataset.train_labels)} pictures of {dataset.name}, an epoch with its test"
    table = Table("engine", title=title)
    for column in ("epoch", "quartiles", "over fastconv's", "quartiles", "first", "its loss", "apart", "test loss"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        epoch, ratio = row["epoch"], row["ratio"]
        table.add_row(
            row["engine"], duration(epoch["median"]), f"{duration(epoch['low'])} - {duration(epoch['high'])}",
            f"{ratio['median']:.2f}", f"{ratio['low']:.2f} - {ratio['high']:.2f}", duration(row["first"]),
            f"{row['loss']:.5f}", f"{row['apart']:.1e}", f"{row['test_loss']:.5f}",
        )  # fmt: skip
    out.print(table)
    how = f"{options.optimizer}, batches of {options.batch_size}"
    out.print(f"{how}; apart: the largest relative difference of the first epoch's losses, after each step")
    ours, *peers = rows
    if peers:
        best = min(peers, key=lambda row: row["epoch"]["median"])
        ours_takes, best_takes = (duration(row["epoch"]["median"]) for row in (ours, best))
        out.print(
            f"An epoch takes fastconv {ours_takes}, the quickest of PyTorch's ({best['engine']}) {best_takes}: "
            f"{best['ratio']['median']:.2f} times as long"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.epoch", description=__doc__)
    parser.add_argument("--data", metavar="DIR", help="as of `python -m fastconv train`; default: the digits")
    parser.add_argument("--epochs", type=int, default=9, metavar="N", help="to time; default: %(default)s")
    parser.add_argument("--optimizer", choices=training.OPTIMIZERS, default="adam", help="default: %(default)s")
    parser.add_argument("--pictures", type=int, metavar="N", help="only so many of each split; default: all")
    parser.add_argument("--threads", type=int, default=runtime.get_num_threads(), metavar="N", help="default: all")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    given = parser.parse_args(arguments)
    dataset = data.load(given.data)
    if given.pictures:
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        dataset = replace(dataset, **{part: getattr(dataset, part)[: given.pictures] for part in parts})
    _, usual, batch_size = training.DEFAULTS[dataset.name]
    if not 1 <= given.epochs < usual:
        parser.error(f"--epochs must be from 1 to {usual - 1}: a training has {usual}, the first is timed apart")
    lr = training.LEARNING_RATES[given.optimizer]
    plan = Plan(dataset, training.Options(usual, batch_size, given.optimizer, lr))
    names, kinds, extras = zip(*contestants(), strict=True)
    with started([Engine(kind, given.threads) for kind in kinds]) as engines:
        for engine, extra in zip(engines, extras, strict=True):
            module = "epoch" if engine.name == OURS else "adapters.networks.pytorch_epoch"
            engine.run(f"{module}:prepare", plan, *extra)
        rows = measure(engines, names, given.epochs)
        versions = {name: version for engine in engines for name, version in engine.run("worker:versions").items()}
    show(rows, plan)
    if given.json:
        write_json(given.json, environment(given.threads, None, versions), rows=rows)


if __name__ == "__main__":
    # Under its own name, by which other processes know a Plan.
    import_module(".epoch", __package__).main()
