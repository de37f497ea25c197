"""What the measured times say: a row a task, and a line a family of layers.

A ratio is a peer's time over fastconv's: above 1, fastconv is faster. The best peer is the fastest of all peers and
layouts, held against fastconv in each of its own layouts; the best in the same layout is given beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .adapters import OURS
from .engines import Result
from .groups import NETWORKS, families
from .layer import LAYOUTS
from .networks import Job
from .report import geometric_mean

Row = dict[str, Any]
ERROR_LIMIT = 4.0  # times the direct kernel's


def row_of(
    group: str,
    task: Job,
    results: Mapping[str, Result],
    floor: float,
    peak: float,
    errors: Mapping[str, tuple[float, float]],
    left_out: Mapping[str, str],
) -> Row:
    """Everything about one task: times by engine and layout, and what follows from them.

    `floor` is in seconds, `peak` that of multiply-adds at the time, in operations a second.
    """
    medians = {name: result.spread.median for name, result in results.items()}
    ours = {layout: seconds for layout in LAYOUTS if (seconds := medians.get(f"{OURS} {layout}"))}
    peers = {name: seconds for name, seconds in medians.items() if name.split()[0] != OURS}
    best = min(peers, key=lambda name: peers[name], default=None)
    same = {layout: [seconds for name, seconds in peers.items() if name.endswith(layout)] for layout in ours}
    return {
        "group": group, "kind": task.kind, "dtype": task.dtype, "layer": task.label, "batch": task.batch,
        "families": families(task), "operations": 2 * task.multiply_adds, "bytes": task.compulsory_bytes,
        "floor": floor, "peak": peak, "best_peer": best,
        "timings": {name: _timing(result) for name, result in results.items()},
        "ratio": {layout: peers[best] / seconds for layout, seconds in ours.items()} if best else {},
        "same_layout": {layout: min(same[layout]) / seconds for layout, seconds in ours.items() if same[layout]},
        "errors": dict(errors), "left_out": dict(left_out),
    }  # fmt: skip


def _timing(result: Result) -> dict[str, Any]:
    timing = {**result.spread._asdict(), "faults": result.faults, "first": result.first, "cold": result.cold}
    return timing | ({"how": result.how} if result.how else {})


def ours_best(row: Row) -> Row:
    """Times of fastconv's faster layout."""
    ours = [timing for name, timing in row["timings"].items() if name.split()[0] == OURS]
    best: Row = min(ours, key=lambda timing: timing["median"])
    return best


def key_of(row: Row) -> tuple[str, ...]:
    """What makes a row of one run the same as one of another."""
    return row["group"], row["kind"], row["dtype"], row["layer"]


def lines(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Geometric mean and minimum of the ratios, and how many layers are ahead.

    A line a group, kind, family, batch (1, or larger) and layout of fastconv's.
    """
    members: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        batch = "1" if row["batch"] == 1 else "larger"
        for family in row["families"]:
            for layout in row["ratio"]:
                members.setdefault((row["group"], row["kind"], family, batch, layout), []).append(row)
    return [_line(key, members[key]) for key in members]


def _line(key: tuple[str, ...], rows: list[Row]) -> dict[str, Any]:
    group, kind, family, batch, layout = key
    ratios = [row["ratio"][layout] for row in rows]
    same = [row["same_layout"][layout] for row in rows if layout in row["same_layout"]]
    worst = min(rows, key=lambda row: row["ratio"][layout])
    return {
        "group": group, "kind": kind, "family": family, "batch": batch, "layout": layout, "layers": len(rows),
        "geomean": geometric_mean(ratios), "min": min(ratios), "ahead": sum(ratio >= 1 for ratio in ratios),
        "worst": worst["layer"], "same_geomean": geometric_mean(same) if same else None,
        "same_min": min(same, default=None),
    }  # fmt: skip


def same_layout(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Geometric mean and minimum of the ratios to the best peer in fastconv's own layout, each layout counted.

    A line a group and kind, and one a kind over all groups if there are several.
    """
    members: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        for group in ("all", row["group"]):
            ratios = members.setdefault((row["kind"], group), {})
            ratios |= {f"{row['group']}: {row['layer']} {at}": value for at, value in row["same_layout"].items()}
    groups = {kind: sum(k == kind for k, _ in members) - 1 for kind, _ in members}
    return [
        {
            "group": group, "kind": kind, "rows": len(ratios), "geomean": geometric_mean(ratios.values()),
            "min": min(ratios.values()), "worst": min(ratios, key=lambda name: ratios[name]),
        }
        for (kind, group), ratios in members.items()
        if ratios and (group != "all" or groups[kind] > 1)
    ]  # fmt: skip


def wholes(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Whole networks in fastconv's faster layout: mean and minimum of the ratios, a line a group and batch."""
    members: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if NETWORKS in row["families"] and row["ratio"]:
            members.setdefault((row["group"], row["batch"]), []).append(row)
    return [_whole(group, batch, members[group, batch]) for group, batch in members]


def _whole(group: str, batch: int, rows: list[Row]) -> dict[str, Any]:
    ratios = {row["layer"]: max(row["ratio"].values()) for row in rows}
    worst = min(ratios, key=lambda name: ratios[name])
    return {
        "group": group, "batch": batch, "networks": len(rows), "geomean": geometric_mean(ratios.values()),
        "min": ratios[worst], "worst": worst,
    }  # fmt: skip


def coarse(rows: Iterable[Row]) -> list[str]:
    """Which rows' errors are too far above the direct kernel's."""
    return [
        f"{row['layer']} {layout} ({row['group']}, {row['kind']}): relative L2 {l2:.1f}, maximum {highest:.1f}"
        for row in rows
        for layout, (l2, highest) in row["errors"].items()
        if max(l2, highest) > ERROR_LIMIT
    ]
