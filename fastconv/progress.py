"""Showing on the screen how a training goes: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from fastconv.extras import require


def observer(epochs: int, steps_per_epoch: int) -> Bar | Lines:
    """Return what suits standard output; use it in a `with` block.

    Raises
    ------
    MissingExtraError
        If standard output is a terminal and rich is not installed.
    """
    return Bar(epochs, steps_per_epoch) if sys.stdout.isatty() else Lines(epochs)


def describe(record: dict[str, float], epochs: int) -> str:
    """Return one epoch in one line."""
    return (
        f"epoch {record['epoch']:{len(str(epochs))}}/{epochs}  "
        f"train loss {record['train_loss']:.4f} accuracy {record['train_accuracy']:7.2%}  "
        f"test loss {record['test_loss']:.4f} accuracy {record['test_accuracy']:7.2%}  {record['seconds']:5.1f} s"
    )


class Lines:
    """One line an epoch."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def step(self, epoch: int, loss: float, accuracy: float) -> None:
        pass

    def epoch(self, record: dict[str, float]) -> None:
        print(describe(record, self._epochs), flush=True)


class Bar:
    """A live bar with loss and accuracy of the epoch so far, below one line for every epoch done."""

    def __init__(self, epochs: int, steps_per_epoch: int) -> None:
        progress = require("rich.progress", extra="train")
        self._epochs = epochs
        self._bar: Any = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[figures]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._bar.add_task(f"epoch 1/{epochs}", total=epochs * steps_per_epoch, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, epoch: int, loss: float, accuracy: float) -> None:
        figures = f"loss {loss:.4f} accuracy {accuracy:.2%}"
        self._bar.update(self._task, advance=1, description=f"epoch {epoch}/{self._epochs}", figures=figures)

    def epoch(self, record: dict[str, float]) -> None:
        self._bar.console.print(describe(record, self._epochs), highlight=False)
