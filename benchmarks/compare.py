"""What moved between two runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .adapters import OURS
from .layer import LAYOUTS
from .report import duration, geometric_mean
from .summary import Row, key_of
from .tables import ratio

LEAST = 1.05  # times faster or slower, with quartiles apart: less is noise
SAME = ("machine", "measured threads", "measured isa")


class NotAReport(ValueError):
    """A file that was not written by --json."""


def load(path: str) -> dict[str, Any]:
    """A report that --json has written.

    Raises
    ------
    NotAReport, OSError
    """
    try:
        report = json.loads(Path(path).read_text())
        for row in report["layers"]:
            key_of(row)
    except (ValueError, KeyError, TypeError):
        raise NotAReport(f"{path} is not a report that --json has written") from None
    return dict(report)


def moved(old: Iterable[Row], new: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows of fastconv's times that are in both runs; `moved` where they differ by more than noise.

    `factor` is the old time over the new one: above 1, it became faster.
    """
    before = {key_of(row): row for row in old}
    found = []
    for row in new:
        known = before.get(key_of(row))
        if known is not None:
            found += list(_differences(known, row))
    return sorted(found, key=lambda line: line["factor"])


def _differences(old: Row, new: Row) -> Iterator[dict[str, Any]]:
    for layout in LAYOUTS:
        a, b = (row["timings"].get(f"{OURS} {layout}") for row in (old, new))
        if a is None or b is None:
            continue
        factor = a["median"] / b["median"]
        apart = a["high"] < b["low"] or b["high"] < a["low"]
        yield {
            "group": new["group"], "kind": new["kind"], "layer": new["layer"], "layout": layout, "factor": factor,
            "old": a["median"], "new": b["median"], "old_ratio": old["ratio"].get(layout),
            "new_ratio": new["ratio"].get(layout), "moved": apart and not 1 / LEAST < factor < LEAST,
        }  # fmt: skip


def show(old: dict[str, Any], new: dict[str, Any], out: Console) -> None:
    """What moved, slowest first, and what the two runs do not have in common."""
    for name in SAME:
        a, b = (report["environment"].get(name) for report in (old, new))
        if a != b:
            out.print(f"{name} differs: {a} then, {b} now")
    found = moved(old["layers"], new["layers"])
    changes = [line for line in found if line["moved"]]
    if changes:
        out.print(_table(changes))
    overall = f", {geometric_mean(line['factor'] for line in found):.3f} times as fast in all" if found else ""
    out.print(f"{len(changes)} of {len(found)} times moved since {old['environment'].get('commit')}{overall}")


def _table(changes: list[dict[str, Any]]) -> Table:
    table = Table("group", "kind", "layer", "layout", title="fastconv, then and now", box=box.SIMPLE_HEAD)
    for column in ("then", "now", "times as fast", "best peer over it\nthen", "\nnow"):
        table.add_column(column, justify="right")
    for line in changes:
        names = (line[key] for key in ("group", "kind", "layer", "layout"))
        times = duration(line["old"]), duration(line["new"]), ratio(line["factor"])
        table.add_row(*names, *times, ratio(line["old_ratio"]), ratio(line["new_ratio"]))
    return table
