"""What a run has measured, on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .adapters import OURS
from .ceilings import Ceilings, size_name
from .layer import LAYOUTS
from .report import duration
from .summary import ERROR_LIMIT, Row, coarse, ours_best, same_layout, wholes

DRIFT = 0.1  # of the peak of multiply-adds, from which on it is told
STYLE: dict[str, Any] = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "show_edge": False}
SHORT = {"channels_first": "first", "channels_last": "last"}
LEGEND = """\
first, last: time of a call with channels there, and best peer's time over it (above 1, fastconv is faster)
1st call, cold: of the faster layout, with planning and packing; with nothing in the caches
floor: the least time that the ceilings leave, as a share of its time; above 100 % where fewer products do
GFLOP/s: those of the definition; error: relative L2 or maximum, the larger, over that of algorithm="direct"
"""


def show(rows: Sequence[Row], summary: Sequence[dict[str, Any]], ceilings: Ceilings, out: Console) -> None:
    """A table a section, the summary, and what has to be known to judge them."""
    for title in dict.fromkeys((row["group"], row["kind"], row["dtype"]) for row in rows):
        of_section = [row for row in rows if (row["group"], row["kind"], row["dtype"]) == title]
        out.print(rows_table(of_section, "{}, {} rows, {}".format(*title)))
    out.print(LEGEND, style="dim", highlight=False)
    if summary:
        out.print(summary_table(summary))
        out.print(same_layout_table(same_layout(rows)))
    for whole in wholes(rows):
        out.print(whole_line(whole))
    out.print(ceilings_line(ceilings))
    out.print(_drift(rows), end="")
    for row in rows:
        for name, why in row["left_out"].items():
            out.print(f"[red]{name} is left out of {row['layer']} ({row['group']}, {row['kind']})[/]: {escape(why)}")
    for line in coarse(rows):
        out.print(f"[red]Error above {ERROR_LIMIT:g} times that of algorithm=direct: {line}[/]")


def _drift(rows: Sequence[Row]) -> str:
    """Says so if the peak of multiply-adds moved during the run."""
    peaks = [row["peak"] for row in rows if row["dtype"] == rows[0]["dtype"]]
    low, high = min(peaks), max(peaks)
    if low >= (1 - DRIFT) * high:
        return ""
    return f"The peak moved between {low / 1e9:.0f} and {high / 1e9:.0f} GFLOP/s: compare ratios, not times of rows\n"


def rows_table(rows: Iterable[Row], title: str) -> Table:
    """A line a task."""
    table = Table("layer", title=title, **STYLE)
    for column in ("first", "", "last", "", "best", "peer", "1st call", "cold", "floor", "GFLOP/s", "error"):
        table.add_column(column, justify="left" if column == "peer" else "right", no_wrap=True)
    for row in rows:
        table.add_row(row["layer"], *_cells(row))
    return table


def _cells(row: Row) -> list[str]:
    cells = []
    for layout in LAYOUTS:
        timing = row["timings"].get(f"{OURS} {layout}")
        cells += [duration(timing["median"]) if timing else "-", ratio(row["ratio"].get(layout))]
    best, ours = row["best_peer"], ours_best(row)
    cells += [duration(row["timings"][best]["median"]) if best else "-", _named(row)]
    cells += [duration(ours["first"]), duration(ours["cold"]) if ours["cold"] else "-"]
    cells += [f"{row['floor'] / ours['median']:.0%}", f"{row['operations'] / ours['median'] / 1e9:.0f}"]
    return [*cells, _error(row)]


def _named(row: Row) -> str:
    """The best peer, its layout, and its way if it has several."""
    if not row["best_peer"]:
        return "-"
    name, layout = row["best_peer"].split()
    return " ".join((name, SHORT[layout], row["timings"][row["best_peer"]].get("how", ""))).rstrip()


def ratio(value: float | None) -> str:
    """Green from 1 on, red below."""
    if value is None:
        return "-"
    return f"[{'green' if value >= 1 else 'red'}]{value:.2f}[/]"


def _error(row: Row) -> str:
    errors = [max(pair) for pair in row["errors"].values()]
    if not errors:
        return "-"
    return f"[red]{max(errors):.1f}[/]" if max(errors) > ERROR_LIMIT else f"{max(errors):.1f}"


def summary_table(lines: Sequence[dict[str, Any]]) -> Table:
    """A line a group, kind, family and batch; both layouts side by side."""
    table = Table("group", "kind", "family", "batch", title="Best peer's time over fastconv's", **STYLE)
    for layout in LAYOUTS:
        for column in (f"{layout}\ngeomean", "\nmin", "\nahead", "same layout\ngeomean", "\nmin"):
            table.add_column(column, justify="right", no_wrap=True)
    merged: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for line in lines:
        key = line["group"], line["kind"], line["family"], line["batch"]
        merged.setdefault(key, {})[line["layout"]] = line
    for names, by_layout in merged.items():
        cells = []
        for layout in LAYOUTS:
            cells += _summary_cells(by_layout[layout]) if layout in by_layout else ["-"] * 5
        table.add_row(*names, *cells)
    return table


def _summary_cells(line: dict[str, Any]) -> list[str]:
    ahead = f"{line['ahead']}/{line['layers']}"
    any_layout, same = (("geomean", "min"), ("same_geomean", "same_min"))
    return [*(ratio(line[k]) for k in any_layout), ahead, *(ratio(line[k]) for k in same)]


def same_layout_table(lines: Sequence[dict[str, Any]]) -> Table:
    """A line a kind and group, of both layouts."""
    table = Table("kind", "group", title="Best peer's time in the same layout over fastconv's", **STYLE)
    for column in ("rows", "geomean", "min"):
        table.add_column(column, justify="right")
    table.add_column("where", no_wrap=True)
    for line in lines:
        numbers = str(line["rows"]), ratio(line["geomean"]), ratio(line["min"])
        table.add_row(line["kind"], line["group"], *numbers, line["worst"])
    return table


def whole_line(line: dict[str, Any]) -> str:
    """Whole networks of one group and batch, in fastconv's faster layout."""
    least = f", {ratio(line['min'])} at least ({line['worst']})" if line["networks"] > 1 else ""
    mean = f"{ratio(line['geomean'])} times as fast as the best peer{' in the geometric mean' if least else ''}"
    return f"{line['group']}, batch {line['batch']}, faster layout: {mean}{least}"


def ceilings_line(ceilings: Ceilings) -> str:
    """Peaks in one line."""
    peaks = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {dtype}" for dtype, rate in ceilings.flops.items())
    sizes = list(next(iter(ceilings.copies.values())))
    copies = ", ".join(f"{ceilings.copy_rate(size) / 1e9:.0f} at {size_name(size)}" for size in sizes[1::3])
    return f"Ceilings: {peaks}; copies, GB/s read and written: {copies}"
