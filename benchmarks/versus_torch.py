"""Forward passes of named layers against PyTorch's, in both layouts.

    python -m benchmarks.versus_torch [--quick] [--filter REGEX] [--threads N] [--isa NAME] [--dtype DTYPE]
                                      [--kind functional|layer] [--json FILE]

Each engine and layout lives in a process of its own; one is awake at a time; results are compared before they are
timed; rounds in turn, medians. A ratio is PyTorch's time over fastconv's: above 1, fastconv is faster. The best peer is
the faster of PyTorch's layouts, held against fastconv in each of its own. Functional rows prepare weights inside the
call; layer rows have them packed ahead, by oneDNN too. The two kinds are never mixed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from rich.progress import track
from rich.table import Table

from benchmarks import adapters
from benchmarks.engines import Contestant, Engine, race, started
from benchmarks.layer import LAYOUTS, Layer
from benchmarks.report import console, duration, environment, geometric_mean, write_json
from benchmarks.shapes import find, multiply_adds
from fastconv import runtime
from fastconv.extras import MissingExtraError

# A few of every kind, for a first look.
QUICK = (
    r"^(alexnet/conv[12]|vgg16/(conv[135]_[12]|pool1)|resnet50/(conv1|pool1|conv4_1[abc])|resnext50/conv3_2b"
    r"|mobilenetv2/block4_|convnext_tiny/stage2_|deeplabv3/aspp_d12|dcgan/conv2|wavenet/gate_d64|m5/conv[14]"
    r"|c3d/conv4b|filters/5x5_1024)"
)


def family(layer: Layer) -> str:
    """The group whose summary a layer belongs to."""
    if layer.pools:
        return "pool"
    if layer.operator == "conv_transpose":
        return "transposed"
    if layer.in_channels == 1 and layer.out_channels == 1:
        return "filter"
    if layer.groups > 1:
        return "grouped"
    if set(layer.kernel) == {1}:
        return "pointwise"
    return "dense"


def measure(
    layers: Iterable[Layer], dtype: str, kind: str, threads: int, isa: str | None, rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row a layer, and what was measured."""
    engines = [Engine(name, threads, isa) for name in ("fastconv", "torch") for _ in LAYOUTS]
    rows = []
    with started(engines):
        contestants = [Contestant(e, layout) for e, layout in zip(engines, LAYOUTS * 2, strict=True)]
        for layer in track(list(layers), "measuring", transient=True, console=console()):
            timings = race(contestants, layer, dtype, kind, rounds, seconds)
            rows.append(row_of(layer, {name: {**spread._asdict(), "faults": faults}
                                       for name, (spread, faults) in timings.items()}))  # fmt: skip
        versions = engines[-1].run("benchmarks.worker:versions")
    return rows, versions


def row_of(layer: Layer, timings: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Times by engine and layout, and the ratios that follow."""
    medians = {name: timing["median"] for name, timing in timings.items()}
    best_peer = min(seconds for name, seconds in medians.items() if name.startswith("torch"))
    same = {
        layout: medians[f"torch {layout}"] / medians[f"fastconv {layout}"]
        for layout in LAYOUTS
        if f"torch {layout}" in medians
    }
    best = {layout: best_peer / medians[f"fastconv {layout}"] for layout in LAYOUTS}
    return {"layer": layer.name, "family": family(layer), "operations": 2 * multiply_adds(layer), "timings": timings,
            "same_layout": same, "best_peer": best}  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Every layer's times and ratios."""
    table = Table("layer", title="Forward, time of a call and ratio to PyTorch (above 1: fastconv is faster)")
    for layout in LAYOUTS:
        for column in (f"{layout}\nfastconv", "\ntorch", "\nsame layout", "\nbest peer"):
            table.add_column(column, justify="right")
    for row in rows:
        cells = []
        for layout in LAYOUTS:
            ours, theirs = (row["timings"].get(f"{engine} {layout}") for engine in ("fastconv", "torch"))
            cells += [duration(ours["median"]), duration(theirs["median"]) if theirs else "-"]
            cells += [_ratio(row["same_layout"].get(layout)), _ratio(row["best_peer"][layout])]
        table.add_row(row["layer"], *cells)
    console().print(table)


def _ratio(value: float | None) -> str:
    if value is None:
        return "-"
    return f"[{'green' if value >= 1 else 'red'}]{value:.2f}[/]"


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric mean and minimum of the ratios, by family and layout."""
    lines = []
    for name in (*dict.fromkeys(row["family"] for row in rows), "all"):
        of_family = [row for row in rows if name in (row["family"], "all")]
        for layout in LAYOUTS:
            same = [row["same_layout"][layout] for row in of_family if layout in row["same_layout"]]
            best = [row["best_peer"][layout] for row in of_family]
            worst = min(of_family, key=lambda row: row["best_peer"][layout])
            lines.append({
                "family": name, "layout": layout, "layers": len(best),
                "same_geomean": geometric_mean(same) if same else None, "same_min": min(same, default=None),
                "best_geomean": geometric_mean(best), "best_min": min(best), "worst": worst["layer"],
            })  # fmt: skip
    return lines


def show_summary(lines: list[dict[str, Any]]) -> None:
    """The summary, a line a family and layout."""
    table = Table("family", "layout", "layers", title="PyTorch's time over fastconv's")
    for column in ("same layout\ngeomean", "\nmin", "best peer\ngeomean", "\nmin"):
        table.add_column(column, justify="right")
    table.add_column("worst layer")
    for line in lines:
        ratios = (_ratio(line[key]) for key in ("same_geomean", "same_min", "best_geomean", "best_min"))
        table.add_row(line["family"], line["layout"], str(line["layers"]), *ratios, line["worst"])
    console().print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus_torch", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few layers of every kind, fewer rounds")
    parser.add_argument("--filter", metavar="REGEX", help="only layers whose name or operator matches it")
    parser.add_argument("--threads", type=int, default=runtime.get_num_threads(), help="default: all")
    parser.add_argument("--isa", choices=runtime.available_isas(), help="for both engines; default: the widest")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--kind", choices=adapters.KINDS, default="functional", help="see above")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, too")
    options = parser.parse_args()
    if not adapters.installed("torch"):
        raise MissingExtraError("this needs torch: pip install 'fastconv[test]'", name="torch")
    layers = find(options.filter)
    if options.quick:
        layers = find(QUICK, layers)
    if not layers:
        parser.error(f"no layer's name or operator matches {options.filter!r}")
    rounds, seconds = (3, 0.03) if options.quick else (9, 0.05)
    rows, versions = measure(layers, options.dtype, options.kind, options.threads, options.isa, rounds, seconds)
    lines = summary(rows)
    show(rows)
    show_summary(lines)
    if options.json:
        about = environment(options.threads, options.isa, kind=options.kind, dtype=options.dtype, **versions)
        write_json(options.json, about, layers=rows, summary=lines)


if __name__ == "__main__":
    main()
