"""A picture of all ratios: a line a family of layers, a dot a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .report import geometric_mean
from .summary import Row

AHEAD, BEHIND, MEAN = "#2a7f62", "#b3403a", "#222222"


def dots(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Ratios of fastconv's faster layout to the best peer, by group, kind and family."""
    by_family: dict[str, list[float]] = {}
    for row in rows:
        if row["ratio"]:
            name = f"{row['group']}, {row['kind']}: {row['families'][-1]}"
            by_family.setdefault(name, []).append(max(row["ratio"].values()))
    return by_family


def draw(rows: Sequence[Row], path: str, machine: str) -> None:
    """Write the chart; the ending of the path says in which format."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    families = dots(rows)
    figure: Any = Figure(figsize=(9, 1.4 + 0.36 * len(families)), layout="constrained")
    axes = figure.add_subplot()
    for line, ratios in enumerate(families.values()):
        colours = [AHEAD if ratio >= 1 else BEHIND for ratio in ratios]
        axes.scatter(ratios, [line] * len(ratios), c=colours, s=22, alpha=0.6, linewidths=0)
        mean = geometric_mean(ratios)
        axes.plot([mean, mean], [line - 0.32, line + 0.32], color=MEAN, linewidth=2)
        axes.annotate(f"{mean:.2f}", (1.01, line), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(families)), families)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color=MEAN, linewidth=0.8)
    axes.xaxis.set_major_locator(FixedLocator([0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 50, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="x", linewidth=0.4, alpha=0.5)
    axes.set_xlabel("best peer's time over fastconv's; bar and figure: geometric mean")
    axes.set_title(machine, fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=150)
