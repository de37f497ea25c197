"""Pictures of a training: files of the asked format, labelled, and drawn without matplotlib's global state."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from fastconv import plots

pytestmark = pytest.mark.isa_independent

HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "test_loss": 2 / epoch, "train_accuracy": 0.9, "test_accuracy": 0.8}
    for epoch in (1, 2, 3)
]
CLASSES = ("cat", "dog", "T-shirt/top")
COUNTS = np.array([[8, 2, 0], [0, 10, 0], [1, 1, 8]])


def test_learning_curve_is_labelled(tmp_path):
    path = tmp_path / "curve.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plots.learning_curve(path, HISTORY, "a network on its data")
    text = path.read_text()
    for label in ("epoch", "loss", "accuracy (%)", "train (90.00 %)", "test (0.6667)", "a network on its data"):
        assert f">{label}<" in text
    assert list(tmp_path.iterdir()) == [path]


def test_confusion_matrix_shows_classes_and_counts(tmp_path):
    path = tmp_path / "matrix.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plots.confusion_matrix(path, COUNTS, CLASSES, "80 % right")
    text = path.read_text()
    for label in (*CLASSES, "true class", "predicted class", "10", "80 % right"):
        assert f">{label}<" in text


@pytest.mark.parametrize("epochs", [1, 3])
def test_png_of_any_number_of_epochs(tmp_path, epochs):
    plots.learning_curve(tmp_path / "curve.png", HISTORY[:epochs], "")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_class_without_pictures_is_no_division_by_zero(tmp_path):
    with np.errstate(all="raise"):
        plots.confusion_matrix(tmp_path / "matrix.png", np.zeros((3, 3), int), CLASSES, "")


def test_wrong_arguments():
    with pytest.raises(ValueError, match="history is empty"):
        plots.learning_curve("curve.png", [], "")
    with pytest.raises(ValueError, match=r"counts must have shape \(3, 3\), got \(2, 2\)"):
        plots.confusion_matrix("matrix.png", COUNTS[:2, :2], CLASSES, "")


def test_pyplot_is_left_alone():
    program = (
        "import sys; from fastconv import plots; plots._figure(1, 1); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
