"""The command line: every command does its job, every mistake is one line on standard error and exit code 2."""

import gzip
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fastconv import __version__, cli, data, prediction, runs, training

pytestmark = pytest.mark.isa_independent


@pytest.fixture(scope="module")
def digits():
    return data.load()


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """LeNet-5 after four epochs over the digits."""
    return training.train("lenet5", digits, tmp_path_factory.mktemp("run"), training.Options(epochs=4))


def run_fails(capsys, *arguments):
    """Run a command that must fail, and return its one line."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit_:
        code = exit_.code
    output = capsys.readouterr()
    assert code == 2
    assert output.err.startswith("fastconv")
    assert output.err.endswith("\n")
    assert output.err.count("\n") == 1
    return output.err


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, digits, train=96, test=32):
    """Write some digits, cut to 28x28, as MNIST's files, gzipped."""
    folder.mkdir()
    for split, count in (("train", train), ("test", test)):
        arrays = getattr(digits, f"{split}_images")[:count, 0, 2:-2, 2:-2], getattr(digits, f"{split}_labels")[:count]
        for name, array in zip(data.IDX_FILES[split], arrays, strict=True):
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(np.ascontiguousarray(array, np.uint8))))
    return folder


def write_cifar(folder):
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (8, 3073), np.uint8)
    records[:, 0] %= 10
    for name in (*data.CIFAR_TRAIN, data.CIFAR_TEST):
        (folder / name).write_bytes(records.tobytes())
    return folder


# info, help, version.


def test_info(capsys):
    assert cli.main(["info"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["fastconv"] == __version__
    assert shown["numpy"] == np.__version__
    assert {"isa", "threads", "compiler", "openmp"} <= shown.keys()


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "fastconv", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fastconv {__version__}\n"


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        (["-m", "fastconv", "info"], "FASTCONV_ISA"),
        (["-mfastconv", "--version"], "FASTCONV_ALGORITHM"),
        (["-m", "fastconv"], "FASTCONV_ISA"),
    ],
)
def test_a_bad_environment_variable_is_one_line(command, variable):
    """It is read when the package is imported, before the command line's own code runs."""
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, variable: "am\nx"}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(rf"fastconv: {variable}: .*'am\\nx'.*\n", done.stderr)


def test_a_bad_environment_variable_is_a_value_error_for_who_imports_the_package(tmp_path):
    """Also for another package that is run by -m."""
    package = tmp_path / "other"
    package.mkdir()
    (package / "__init__.py").write_text("import fastconv")
    (package / "__main__.py").touch()
    path = os.pathsep.join((str(tmp_path), *filter(None, sys.path)))
    env = {**os.environ, "FASTCONV_ISA": "amx", "PYTHONPATH": path}
    for command in (["-c", "import fastconv"], ["-m", "other", "fastconv"]):
        done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("ValueError: FASTCONV_ISA: isa must be one of")


# train.


def test_train_on_idx_files(tmp_path, capsys, digits):
    folder = tmp_path / "new" / "run"
    source = write_idx(tmp_path / "mnist", digits)
    assert cli.main(["train", "--data", str(source), "--epochs", "2", "--run", str(folder), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lenet5 on mnist: 96 pictures to learn from, 32 to test, 1 threads")
    assert [line[:9] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[3].startswith("after 2 epochs, ")
    record = runs.Run.load(folder)
    assert record.preparation.size == 32
    assert f"test accuracy {record.test_accuracy:.2%}, all in {folder}" in lines[3]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("model", ["fashion-stride", "fashion-1x1"])
def test_train_another_network(tmp_path, digits, model):
    source = write_idx(tmp_path / "fashion", digits, 32, 8)
    folder = str(tmp_path / "run")
    assert cli.main(["train", "--model", model, "--data", str(source), "--epochs", "1", "--run", folder]) == 0
    record = runs.Run.load(folder)
    assert (record.model, record.data, record.preparation.size) == (model, "fashion-mnist", 28)


@pytest.mark.usefixtures("undrawn")
def test_train_on_cifar(tmp_path):
    arguments = ["--model", "cifar-stride", "--epochs", "1", "--optimizer", "sgd", "--lr", "0.001", "--no-augment"]
    folder = str(tmp_path / "run")
    assert cli.main(["train", "--data", str(write_cifar(tmp_path / "cifar")), "--run", folder, *arguments]) == 0
    record = runs.Run.load(folder)
    assert (record.data, record.channels, len(record.preparation.mean)) == ("cifar10", 3, 3)
    assert record.options["optimizer"] == "sgd"
    assert record.options["lr"] == 0.001
    assert not record.options["augment"]


@pytest.mark.usefixtures("undrawn")
def test_default_folder_is_named_after_model_data_and_time(tmp_path, monkeypatch, digits):
    source = write_idx(tmp_path / "mnist", digits, 32, 8)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--data", str(source), "--epochs", "1"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("lenet5-mnist-20")


# predict.


def picture(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


def right_digit(run, digits):
    """A test digit that the run is sure of."""
    logits = training.predict(run.network(), digits.test_images, run.preparation)
    sure = np.where(logits.argmax(1) == digits.test_labels, logits.max(1), -np.inf).argmax()
    return digits.test_images[sure, 0], str(digits.test_labels[sure])


def test_predict_a_digit(run, digits, tmp_path, capsys):
    pixels, label = right_digit(run, digits)
    assert cli.main(["predict", str(run.folder), picture(tmp_path / "digit.png", pixels)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == label
    assert len(lines) == 4
    probabilities = [float(line.split("%")[0]) for line in lines[1:]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert lines[1].endswith(f"%  {label}")


def test_picture_of_the_right_size_is_taken_as_it_is(run, digits, tmp_path):
    pixels = digits.test_images[0, 0]
    read = prediction.read_picture(picture(tmp_path / "digit.png", pixels), run)
    np.testing.assert_array_equal(read[0, 0], pixels)


@pytest.mark.parametrize("form", ["inverted", "colour", "transparent", "large", "off centre", "16 bits", "palette"])
def test_any_form_of_the_digit_is_the_same_digit(run, digits, tmp_path, form):
    pixels, label = right_digit(run, digits)
    image = Image.fromarray(pixels)
    if form == "inverted":
        image = Image.fromarray(255 - pixels)
    elif form == "colour":
        image = image.convert("RGB")
    elif form == "transparent":  # black ink on nothing
        image = Image.fromarray(np.stack([np.zeros_like(pixels)] * 3 + [pixels], axis=-1))
    elif form == "large":
        image = image.resize((300, 300))
    elif form == "off centre":
        canvas = Image.new("L", (400, 250), 255)
        canvas.paste(Image.fromarray(255 - pixels).resize((120, 120)), (250, 20))
        image = canvas
    elif form == "16 bits":
        image = Image.fromarray(pixels.astype(np.uint16) * 257)
    else:
        image = image.convert("P")
    path = tmp_path / "digit.png"
    image.save(path)
    assert prediction.classify(run, path)[0][0] == label


def test_drawn_digit(run, tmp_path):
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).line([(100, 30), (100, 170)], fill="black", width=24)
    image.save(tmp_path / "one.png")
    assert prediction.classify(run, tmp_path / "one.png")[0][0] == "1"


def test_blank_picture_has_probabilities(run, tmp_path):
    classes = prediction.classify(run, picture(tmp_path / "blank.png", np.full((50, 50), 255, np.uint8)))
    assert sum(probability for _, probability in classes) == pytest.approx(1)


# Mistakes.

WRONG = [
    ([], "required: COMMAND"),
    (["learn"], "invalid choice: 'learn'"),
    (["train", "--epochs", "0"], "argument --epochs: expected a whole number from 1 to 4294967295, got '0'"),
    (["train", "--batch-size", "1.5"], "argument --batch-size: expected a whole number"),
    (["train", "--lr", "fast"], "argument --lr: expected a number above 0, got 'fast'"),
    (["train", "--lr", "inf"], "argument --lr: expected a number above 0, got 'inf'"),
    (["train", "--weight-decay", "-1"], "expected a number of at least 0, got '-1'"),
    (["train", "--threads", "5000"], "argument --threads: expected a whole number from 1 to 4096, got '5000'"),
    (["train", "--seed", "-1"], "argument --seed: expected a whole number from 0"),
    (["train", "--model", "lenet6"], "argument --model: invalid choice: 'lenet6'"),
    (["train", "--optimizer", "lbfgs"], "argument --optimizer: invalid choice: 'lbfgs'"),
    (["train", "--data", "nowhere"], "nowhere: no such folder"),
    (["predict", "nowhere"], "required: IMAGE"),
    (["predict", "nowhere", "image.png"], "nowhere: not a run folder: it has no run.json"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=lambda value: " ".join(value))
def test_wrong_arguments(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in run_fails(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_bad_data_file(capsys, tmp_path, digits):
    source = write_idx(tmp_path / "mnist", digits, 8, 8)
    path = source / "t10k-labels-idx1-ubyte.gz"
    path.unlink()
    message = run_fails(capsys, "train", "--data", source, "--run", tmp_path / "run")
    assert message.startswith(f"fastconv: {path.with_suffix('')}: no such file")
    assert not (tmp_path / "run").exists()


def test_run_folder_that_cannot_be_made(capsys, tmp_path, digits):
    source = write_idx(tmp_path / "mnist", digits, 8, 8)
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in run_fails(capsys, "train", "--data", source, "--run", tmp_path / "file" / "run")


def test_diverging_training(capsys, tmp_path, digits):
    source = write_idx(tmp_path / "mnist", digits)
    arguments = ["--optimizer", "sgd", "--lr", "1e9", "--run", tmp_path / "run"]
    assert "try a learning rate below" in run_fails(capsys, "train", "--data", source, *arguments)


@pytest.mark.parametrize("content", [None, b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_bad_picture(capsys, run, tmp_path, content):
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    assert run_fails(capsys, "predict", run.folder, path).startswith(f"fastconv: {path}: ")


def test_cut_picture(capsys, run, digits, tmp_path):
    path = tmp_path / "picture.png"
    picture(path, digits.test_images[0, 0])
    path.write_bytes(path.read_bytes()[:60])
    assert f"{path}: cannot be read as a picture" in run_fails(capsys, "predict", run.folder, path)


@pytest.mark.parametrize("package", ["sklearn", "matplotlib"])
def test_missing_extra_names_its_command(capsys, monkeypatch, tmp_path, package):
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    message = run_fails(capsys, "train", "--run", tmp_path / "run")
    assert message == f"fastconv: this needs {package}: pip install 'fastconv[train]'\n"
    assert not (tmp_path / "run").exists()


def test_ctrl_c_before_training_begins(capsys, monkeypatch):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "load", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "fastconv: stopped\n"
