"""`python -m fastconv run`: what it prints of a model, and the one line of each mistake."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

import onnx
from conftest import using_threads
from onnx_models import declared, model, node, normal

from fastconv import cli, plots
from fastconv.backends.onnx import Session

pytestmark = pytest.mark.isa_independent

WEIGHTS = {"w": normal(4, 3, 3, 3), "m": normal(4, 10, seed=1), "one": np.array([1])}


@pytest.fixture
def classifier(tmp_path):
    """A network of ten classes for pictures of 12 x 10."""
    nodes = [
        node("Conv", "picture w", "c", name="stem"), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "f"), node("MatMul", "f m", "scores", name="head"), node("Tanh", "g", "features"),
    ]  # fmt: skip
    path = tmp_path / "classifier.onnx"
    onnx.save(model(nodes, [declared("picture", normal(1), ("n", 3, 12, 10))], "scores features", WEIGHTS), path)
    return path


def run(capsys, *arguments):
    """Run the command, which must do well, and return what it prints."""
    assert cli.main(["run", *map(str, arguments)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def run_fails(capsys, *arguments):
    """Run the command, which must fail, and return its one line."""
    try:
        code = cli.main(["run", *map(str, arguments)])
    except SystemExit as exit_:
        code = exit_.code
    output = capsys.readouterr()
    assert code == 2
    assert output.err.startswith("fastconv")
    assert output.err.count("\n") == 1
    return output.err


def test_shapes_and_likeliest_classes(capsys, classifier, tmp_path):
    x = normal(2, 3, 12, 10, seed=5)
    np.save(tmp_path / "x.npy", x)
    lines = run(capsys, classifier, "--input", tmp_path / "x.npy").splitlines()
    scores = Session(classifier).run({"picture": x})[0]
    assert lines[0] == "scores: float32 (2, 10)"
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    for line, row in zip(lines[1:3], shares, strict=True):
        best = int(row.argmax())
        assert f": class {best} {row[best]:.2%}, " in line
    assert lines[3] == "features: float32 (2, 4, 1, 1)"


def test_floats_of_a_file_are_cast_and_a_batch_left_open_is_one(capsys, classifier, tmp_path):
    np.save(tmp_path / "x.npy", normal(1, 3, 12, 10, dtype=np.float64))
    wide = run(capsys, classifier, "--input", tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", normal(1, 3, 12, 10))
    assert run(capsys, classifier, "--input", tmp_path / "x.npy") == wide
    assert run(capsys, classifier) == run(capsys, classifier)  # random, but the same each time
    assert "scores: float32 (1, 10)" in run(capsys, classifier)


def test_inputs_by_name(capsys, tmp_path):
    a, b = normal(2, 2), normal(2, 2, seed=1)
    onnx.save(model([node("Sub", "a b", "y")], {"a": a, "b": b}, "y"), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", a=a, b=b)
    assert "y: float32 (2, 2)" in run(capsys, tmp_path / "m.onnx", "--input", tmp_path / "x.npz")


def test_a_picture_is_cut_and_scaled(capsys, classifier, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    middle = pixels[:, 5:15].transpose(2, 0, 1)[None] / 255
    x = (middle - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    np.save(tmp_path / "x.npy", x)
    shown = run(capsys, classifier, "--image", tmp_path / "p.png")
    assert shown == run(capsys, classifier, "--input", tmp_path / "x.npy")


def test_a_grey_picture(capsys, tmp_path):
    onnx.save(model([node("Flatten", "x", "y")], [declared("x", normal(1), (2, 1, 2, 2))], "y"), tmp_path / "m.onnx")
    Image.fromarray(np.uint8([[0, 51], [102, 255]])).save(tmp_path / "p.png")
    shown = run(capsys, tmp_path / "m.onnx", "--image", tmp_path / "p.png")
    assert shown.splitlines()[1].startswith("  0: class 3 ")
    assert len(shown.splitlines()) == 3


def test_a_profile_tells_every_layer_and_draws_it(capsys, classifier, tmp_path):
    with using_threads(1):  # and back to as many as before
        shown = run(capsys, classifier, "--profile", "--chart", tmp_path / "times.png", "--threads", 1)
    rows = [re.split(r"  +", line.strip()) for line in shown.splitlines() if "%" in line and "class" not in line]
    assert [row[1] for row in rows] == ["Conv+Relu", "GlobalAveragePool", "Flatten", "MatMul", "Tanh"]
    assert rows[0][0] == "Conv 'stem'"
    assert rows[0][2] == "1x4x10x8"
    assert abs(sum(float(row[4].rstrip("%")) for row in rows) - 100) < 0.5
    assert "5 layers; a run takes" in shown
    assert "1 threads" in shown
    last = run(capsys, classifier, "--profile", "--data-format", "channels_last")
    assert next(line for line in last.splitlines() if "stem" in line).rstrip().endswith(("(turned)", "(pixels)"))
    with Image.open(tmp_path / "times.png") as picture:
        assert picture.size[0] >= 1000


def test_a_chart_of_many_layers_joins_the_short_ones(capsys, tmp_path):
    names = ["x", *(f"v{i}" for i in range(60))]
    nodes = [node("Relu", *pair) for pair in itertools.pairwise(names)]
    onnx.save(model(nodes, {"x": normal(3)}, names[-1]), tmp_path / "m.onnx")
    assert "drawn in" in run(capsys, tmp_path / "m.onnx", "--chart", tmp_path / "times.svg")
    assert "shorter ones" in (tmp_path / "times.svg").read_text()


def test_a_chart_needs_a_layer(tmp_path):
    with pytest.raises(ValueError, match="names is empty"):
        plots.layer_times(tmp_path / "x.png", [], [], [], "nothing")


def test_mistakes(capsys, classifier, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "p.png")
    np.save(tmp_path / "x.npy", normal(1, 3, 4, 4))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for arguments, text in (
        ([tmp_path / "missing.onnx"], "No such file"),
        ([tmp_path / "broken.onnx"], "not an ONNX model"),
        ([classifier, "--input", tmp_path / "missing.npy"], "No such file"),
        ([classifier, "--input", classifier], "not a file of NumPy arrays"),
        ([classifier, "--input", tmp_path / "objects.npy"], "not a file of NumPy arrays"),
        (
            [classifier, "--input", tmp_path / "x.npy"],
            "must have shape (n, 3, 12, 10), got (1, 3, 4, 4)",
        ),
        ([classifier, "--image", classifier], "not a picture in a known format"),
        ([classifier, "--chart", tmp_path / "no" / "folder.png"], "No such file"),
        ([classifier, "--chart", tmp_path / "chart.txt"], "chart.txt: Format 'txt' is not supported"),
        ([classifier, "--input", tmp_path / "cut.npz"], "not a file of NumPy arrays"),
        ([classifier, "--image", "a", "--input", "b"], "not allowed with argument"),
        ([], "the following arguments are required: MODEL"),
    ):
        assert text in run_fails(capsys, *arguments)


def test_mistakes_about_shapes(capsys, tmp_path):
    onnx.save(model([node("Relu", "x", "y")], [declared("x", normal(1), (2, "length"))], "y"), tmp_path / "open.onnx")
    assert "input 'x' has no fixed shape, [2, 'length']: give --input" in run_fails(capsys, tmp_path / "open.onnx")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "p.png")
    shown = run_fails(capsys, tmp_path / "open.onnx", "--image", tmp_path / "p.png")
    assert "--image is for an input of (N, 1 or 3, H, W), 'x' has shape [2, 'length']" in shown
    onnx.save(model([node("Add", "a b", "y")], {"a": normal(2), "b": normal(2)}, "y"), tmp_path / "two.onnx")
    np.save(tmp_path / "x.npy", normal(2))
    assert "the model has 2 inputs" in run_fails(capsys, tmp_path / "two.onnx", "--input", tmp_path / "x.npy")
    assert "this one has 2" in run_fails(capsys, tmp_path / "two.onnx", "--image", tmp_path / "p.png")


@pytest.mark.parametrize("call", ["import fastconv.backends.onnx", "from fastconv.cli import main; main(['run', 'x'])"])
def test_without_onnx_one_line_names_the_extra(call):
    """In a process of its own, in which onnx cannot be imported."""
    code = f"import sys; sys.modules['onnx'] = None\n{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1].endswith("this needs onnx: pip install 'fastconv[onnx]'")


def test_fastconv_needs_no_onnx():
    code = "import fastconv, fastconv.cli, sys; assert 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
