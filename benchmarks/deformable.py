"""Deformable convolution beside fastconv's own dense convolution of the same shape.

No peer of the other groups has the operator, so it is held against what its products alone cost: the dense
convolution, called as users call both, with weights prepared within the call, by the direct kernel and by whatever
"auto" takes. They are timed in one process, in turn, and compared round by round. Results are compared with those of
fastconv.reference before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fastconv import reference

from .adapters import ours
from .engines import check_agreement
from .layer import padding_argument, plain
from .report import duration, geometric_mean
from .summary import Row
from .tables import STYLE
from .task import Task, deformation, operands
from .timing import Spread, time_calls
from .worker import Session

POLICIES = ("direct", "auto")
GOAL = 0.5  # of the dense convolution's rate


def check(session: Session, task: Task, data_format: str) -> None:
    """Compare y, or the gradients, with the reference's, which are computed in float64.

    Raises
    ------
    EngineError
        If they are further apart than rounding brings them.
    """
    prepared = ours.prepare(task, operands(task), data_format)
    exact = tuple(None if array is None else array.astype(task.dtype) for array in _reference(task))
    check_agreement(task, "the reference", exact, "fastconv", prepared.arrays(prepared.build()()))


def _reference(task: Task) -> tuple[Any, ...]:
    given = (*operands(task), *deformation(task))
    x, weight, bias, grad_y, offset, mask = (None if a is None else a.astype(np.float64) for a in given)
    assert x is not None
    assert weight is not None
    assert offset is not None
    layer = task.layer
    options: dict[str, Any] = {"stride": plain(layer.stride), "padding": padding_argument(layer),
                               "dilation": plain(layer.dilation), "mask": mask}  # fmt: skip
    if not task.backward:
        return (reference.deform_conv2d(x, offset, weight, bias, **options),)
    assert grad_y is not None
    need = (True, True, True, bias is not None, mask is not None)
    return reference.deform_conv2d_backward(grad_y, x, offset, weight, need=need, **options)


def beside_dense(session: Session, task: Task, data_format: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds of a call, and by policy those of the dense convolution and what they are over the former, by rounds."""
    dense = replace(task, layer=replace(task.layer, operator="conv", masked=False))
    calls = [ours.prepare(task, operands(task), data_format).build()]
    calls += [ours.prepare(dense, operands(dense), data_format, policy).build() for policy in POLICIES]
    taken = [[time_calls(call, seconds).seconds for call in calls] for _ in range(rounds)]
    own, *others = zip(*taken, strict=True)
    found: dict[str, Any] = {"seconds": Spread.of(own).median}
    for policy, column in zip(POLICIES, others, strict=True):
        shares = Spread.of(a / b for a, b in zip(column, own, strict=True))
        found[policy] = {"seconds": Spread.of(column).median, "share": shares._asdict()}
    return found


def show(rows: Iterable[Row], out: Console) -> None:
    """The table of the rows that have been measured so, if any, and what they come to."""
    measured = [row for row in rows if "dense" in row]
    if not measured:
        return
    out.print(_table(measured))
    if not any(row["best_peer"] for row in measured):
        out.print("No peer that takes part has deformable convolution")
    out.print("share: the dense convolution's time over the deformable one's, median and quartiles of the rounds")
    for policy in POLICIES:
        for name, backward in (("forward", False), ("backward", True)):
            chosen = [row for row in measured if row["layer"].endswith("/backward") == backward]
            shares = [dense[policy]["share"]["median"] for row in chosen for dense in row["dense"].values()]
            if shares:
                mean, met = geometric_mean(shares), sum(share >= GOAL for share in shares)
                out.print(f"{name}, beside {policy}: geometric mean {mean:.2f}, least {min(shares):.2f}, "
                          f"{met} of {len(shares)} at {GOAL:.0%} or more")  # fmt: skip


def _table(rows: Sequence[Row]) -> Table:
    table = Table("layer", "layout", title="Deformable convolution beside the dense one of its shape", **STYLE)
    for column in ("deformable", *(name for policy in POLICIES for name in (f"dense, {policy}", "share", "quartiles"))):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        for layout, dense in row["dense"].items():
            cells = [duration(dense["seconds"])]
            for policy in POLICIES:
                share = dense[policy]["share"]
                colour = "green" if share["median"] >= GOAL else "red"
                cells += [duration(dense[policy]["seconds"]), f"[{colour}]{share['median']:.2f}[/]",
                          f"{share['low']:.2f} - {share['high']:.2f}"]  # fmt: skip
            table.add_row(row["layer"], layout, *cells)
    return table
