"""Pictures of a training, how loss and accuracy went and which classes were taken for which, and of a run's layers.

Figures are drawn without `matplotlib.pyplot`: it keeps global state and may open a window.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastconv.extras import require

Array = NDArray[Any]

TRAIN, TEST, GRID = "#8a94a6", "#1f6feb", "#d8dee4"


def learning_curve(path: str | os.PathLike[str], history: Sequence[Mapping[str, float]], title: str) -> None:
    """Draw loss and accuracy over the epochs, on the training and the test split, into a picture file.

    Parameters
    ----------
    path
        Where to; the suffix, such as .png or .svg, chooses the format.
    history
        One mapping an epoch, with epoch, train_loss, test_loss, train_accuracy and test_accuracy (in 0..1).
    title
        Stands above the picture.

    Raises
    ------
    ValueError
        If history is empty.
    MissingExtraError
        If matplotlib is not installed.
    """
    if not history:
        raise ValueError("history is empty: there is no epoch to draw")
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    _draw_curve(left, history, "loss", 1)
    _draw_curve(right, history, "accuracy", 100)
    left.set_ylim(bottom=0)
    right.set_ylabel("accuracy (%)")
    figure.suptitle(title)
    _write(figure, path)


def _draw_curve(axes: Any, history: Sequence[Mapping[str, float]], what: str, unit: float) -> None:
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) <= 40 else None
    for split, color in (("train", TRAIN), ("test", TEST)):
        values = [unit * record[f"{split}_{what}"] for record in history]
        last = f"{values[-1]:.2f} %" if what == "accuracy" else f"{values[-1]:.4f}"
        axes.plot(epochs, values, color=color, marker=marker, markersize=3, linewidth=1.6, label=f"{split} ({last})")
    axes.set_xlabel("epoch")
    axes.set_ylabel(what)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right" if what == "loss" else "lower right", frameon=False)


def confusion_matrix(path: str | os.PathLike[str], counts: Array, classes: Sequence[str], title: str) -> None:
    """Draw how many pictures of each class (rows) were taken for each class (columns) into a picture file.

    A cell's colour is its share of the row, so that classes of unequal size compare; its number is the count.

    Parameters
    ----------
    path
        Where to; the suffix, such as .png or .svg, chooses the format.
    counts
        Integers (classes, classes): rows are the true classes, columns the predicted ones.
    classes
        Names, in the order of rows and columns.
    title
        Stands above the picture.

    Raises
    ------
    ValueError
        If counts is not square or classes are not as many as its rows.
    MissingExtraError
        If matplotlib is not installed.
    """
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(f"counts must have shape {(len(classes), len(classes))}, got {counts.shape}")
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(5.0, 1.6 + 0.58 * len(classes))
    figure = _figure(side + 0.6, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:d}", ha="center", va="center", color=color, fontsize=9)
    edges = np.arange(len(classes) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.6)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, classes)) > 2 else {}
    axes.set_xticks(range(len(classes)), classes, **turned)
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.03).outline.set_visible(
        False
    )
    _write(figure, path)


def layer_times(
    path: str | os.PathLike[str], names: Sequence[str], seconds: Sequence[float], plans: Sequence[str], title: str
) -> None:
    """Draw how long each layer of a network takes, one bar under the other, into a picture file.

    Parameters
    ----------
    path
        Where to; the suffix, such as .png or .svg, chooses the format.
    names, seconds, plans
        Of each layer: what it is called, how long it takes, and what runs it; layers of one plan have one colour.
    title
        Stands above the picture.

    Raises
    ------
    ValueError
        If there is no layer.
    MissingExtraError
        If matplotlib is not installed.
    """
    if not names:
        raise ValueError("names is empty: there is no layer to draw")
    figure = _figure(10, 1.2 + 0.22 * len(names))
    axes = figure.subplots()
    kinds = list(dict.fromkeys(plans))
    for kind in kinds:
        places = [place for place, plan in enumerate(plans) if plan == kind]
        color = f"C{kinds.index(kind) % 10}"
        axes.barh(places, [1e3 * seconds[place] for place in places], color=color, label=kind)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("ms")
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    axes.set_title(title, fontsize=10)
    _write(figure, path)


def _figure(width: float, height: float) -> Any:
    require("matplotlib.backends.backend_agg", extra="train")
    return require("matplotlib.figure", extra="train").Figure((width, height), dpi=120, layout="constrained")


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        figure.savefig(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
