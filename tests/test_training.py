"""Training: it learns, one seed gives one result, and whatever stops it leaves the last whole epoch behind."""

import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from fastconv import checkpoint, data, plots, progress, runs, training
from fastconv.runs import Run, RunError
from fastconv.training import InterruptedTraining, Options, train

FILES = {runs.CHECKPOINT, runs.RECORD, runs.LEARNING_CURVE, runs.CONFUSION_MATRIX}


@pytest.fixture(scope="module")
def digits():
    return data.load()


@pytest.fixture(scope="module")
def few(digits):
    """64 digits to learn from and 32 to test."""
    parts = {name: getattr(digits, name)[:64] for name in ("train_images", "train_labels")}
    return dataclasses.replace(
        digits, **parts, test_images=digits.test_images[:32], test_labels=digits.test_labels[:32]
    )


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A run of four epochs over all digits."""
    return train("lenet5", digits, tmp_path_factory.mktemp("run"), Options(epochs=4))


class Interrupting:
    """Presses Ctrl-C at a step or after an epoch."""

    def __init__(self, step=math.inf, epoch=math.inf):
        self.at_step, self.at_epoch, self.steps = step, epoch, 0

    def step(self, epoch, loss, accuracy):
        self.steps += 1
        if self.steps == self.at_step:
            raise KeyboardInterrupt

    def epoch(self, record):
        if record["epoch"] == self.at_epoch:
            raise KeyboardInterrupt


def names(folder):
    return {path.name for path in folder.iterdir()}


# What a run is.


def test_four_epochs_learn_most_digits(trained):
    losses = [record["train_loss"] for record in trained.history]
    assert losses == sorted(losses, reverse=True)
    assert trained.test_accuracy > 0.92


def test_run_folder_holds_network_record_and_pictures(trained, digits):
    assert names(trained.folder) == FILES
    assert (trained.folder / runs.LEARNING_CURVE).read_bytes().startswith(b"\x89PNG")
    assert (trained.folder / runs.CONFUSION_MATRIX).read_bytes().startswith(b"\x89PNG")
    record = json.loads((trained.folder / runs.RECORD).read_text())
    assert record["model"] == "lenet5"
    assert record["data"] == "digits"
    assert record["classes"] == list(data.DIGITS)
    assert record["options"]["seed"] == 0
    assert record["versions"]["numpy"] == np.__version__
    assert [entry["epoch"] for entry in record["history"]] == [1, 2, 3, 4]
    assert record["test_accuracy"] == trained.test_accuracy


def test_saved_network_has_the_recorded_accuracy(trained, digits):
    run = Run.load(trained.folder)
    assert run == trained
    logits = training.predict(run.network(), digits.test_images, run.preparation)
    assert np.mean(logits.argmax(1) == digits.test_labels) == run.test_accuracy


def test_confusion_matrix_counts_the_test_split(digits, few, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "confusion_matrix", lambda path, counts, classes, title: drawn.append(counts))
    run = train("lenet5", few, tmp_path, Options(epochs=2))
    (counts,) = drawn
    np.testing.assert_array_equal(counts.sum(1), np.bincount(few.test_labels, minlength=10))
    assert np.trace(counts) / 32 == run.test_accuracy


@pytest.mark.isa_independent
@pytest.mark.usefixtures("undrawn")
def test_older_run_in_the_folder_is_replaced(few, tmp_path):
    train("lenet5", few, tmp_path, Options(epochs=1))
    with pytest.raises(InterruptedTraining):
        train("lenet5", few, tmp_path, Options(epochs=1), Interrupting(step=1))
    assert names(tmp_path) == {runs.RECORD}


def test_new_folder_is_always_a_new_one(tmp_path):
    first = runs.new_folder("lenet5", "digits", tmp_path)
    first.mkdir()
    assert runs.new_folder("lenet5", "digits", tmp_path) != first
    assert first.name.startswith("lenet5-digits-")


# One seed, one result.


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_one_seed_gives_one_checkpoint_byte_for_byte(few, tmp_path, optimizer):
    contents, histories = [], []
    for folder, seed in (("first", 3), ("second", 3), ("other", 4)):
        run = train("lenet5", few, tmp_path / folder, Options(epochs=2, optimizer=optimizer, seed=seed))
        contents.append((run.folder / runs.CHECKPOINT).read_bytes())
        histories.append([{k: v for k, v in record.items() if k != "seconds"} for record in run.history])
    assert contents[0] == contents[1]
    assert histories[0] == histories[1]
    assert contents[0] != contents[2]


@pytest.mark.isa_independent
@pytest.mark.usefixtures("undrawn")
def test_dropout_follows_the_seed(few, tmp_path):
    options = Options(epochs=1, batch_size=16)
    first, second = (train("cifar-stride", few, tmp_path / name, options) for name in "ab")
    assert first.history[0]["train_loss"] == second.history[0]["train_loss"]


# What stops it.


@pytest.mark.isa_independent
@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_leaves_the_last_whole_epoch(few, tmp_path):
    with pytest.raises(InterruptedTraining, match="stopped after 2 whole epochs") as stopped:
        train("lenet5", few, tmp_path / "stopped", Options(epochs=5, batch_size=32), Interrupting(step=5))
    run = stopped.value.run
    assert Run.load(run.folder) == run
    assert names(run.folder) == FILES
    whole = []

    class Keeping(training.Silent):
        def epoch(self, record):
            whole.append(checkpoint.load(tmp_path / "whole" / runs.CHECKPOINT))

    train("lenet5", few, tmp_path / "whole", Options(epochs=5, batch_size=32), Keeping())
    for key, array in run.network().state_dict().items():
        np.testing.assert_array_equal(array, whole[1][key])


@pytest.mark.isa_independent
@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_before_the_first_epoch_ends_leaves_no_checkpoint(few, tmp_path):
    with pytest.raises(InterruptedTraining) as stopped:
        train("lenet5", few, tmp_path, Options(epochs=5), Interrupting(step=1))
    assert names(tmp_path) == {runs.RECORD}
    with pytest.raises(RunError, match="no checkpoint: the training was stopped before its first epoch ended"):
        stopped.value.run.network()


@pytest.mark.isa_independent
def test_ctrl_c_in_a_process_of_its_own(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "fastconv", "train", "--epochs", "9999", "--run", str(folder)]
    # A job in the background of a shell, as these tests may be, ignores Ctrl-C, and what it starts inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            signal.signal(signal.SIGINT, before)
            assert process.stdout.readline().startswith("lenet5 on digits: 1438 pictures to learn from, 359 to test")
            assert process.stdout.readline().startswith("epoch    1/9999")
            process.send_signal(signal.SIGINT)
            _, message = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert message.startswith("fastconv: stopped after ")
    assert message.count("\n") == 1
    assert str(folder) in message
    run = Run.load(folder)
    run.network()
    assert names(folder) == FILES
    assert f"test accuracy {run.test_accuracy:.2%}" in message


@pytest.mark.isa_independent
@pytest.mark.usefixtures("undrawn")
def test_a_loss_that_is_no_number_ends_the_training(few, tmp_path):
    with pytest.raises(
        training.DivergedError, match=r"the loss became (nan|inf) in epoch \d: try a learning rate below"
    ):
        train("lenet5", few, tmp_path, Options(epochs=9, optimizer="sgd", lr=1e6))


# Records that are none.


def test_folder_without_record(tmp_path):
    with pytest.raises(RunError, match=r"not a run folder: it has no run\.json"):
        Run.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "lenet5"', '{"classes": [], "preparation": {}}'])
def test_damaged_record(tmp_path, text):
    (tmp_path / runs.RECORD).write_text(text)
    with pytest.raises(RunError, match="not the record of a run"):
        Run.load(tmp_path)


def test_checkpoint_of_another_network(trained, tmp_path):
    path = tmp_path / runs.CHECKPOINT
    other = dataclasses.replace(trained, folder=tmp_path)
    checkpoint.save(path, {"weight": np.zeros(3)})
    with pytest.raises(RunError, match=r"checkpoint\.npz: state does not fit"):
        other.network()
    path.write_bytes((trained.folder / runs.CHECKPOINT).read_bytes()[:-100])
    with pytest.raises(RunError, match=r"checkpoint\.npz: not a whole"):
        other.network()


# Options and schedule.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be a finite number above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be a finite number above 0, got nan"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of adam, sgd, got 'lbfgs'"),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ValueError, match=message):
        Options(**wrong)


def test_learning_rate_rises_for_an_epoch_and_falls_to_zero():
    options = Options(epochs=10, lr=1.0)
    rates = [training.learning_rate(step, 20, options) for step in range(200)]
    assert rates[0] == 1 / 20
    assert rates.index(max(rates)) == 19
    assert rates[19:] == sorted(rates[19:], reverse=True)
    assert rates[100] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


def test_every_picture_is_seen_once_an_epoch_in_even_batches(few):
    assert training.steps_per_epoch(few, Options(batch_size=64)) == 1
    assert training.steps_per_epoch(few, Options(batch_size=63)) == 2
    assert training.steps_per_epoch(few, Options(batch_size=1)) == 64


# What is shown.

RECORD = {"train_loss": 0.25, "train_accuracy": 0.9, "test_loss": 0.5, "test_accuracy": 0.875, "seconds": 1.25}


def test_one_line_an_epoch_where_there_is_no_terminal(capsys):
    with progress.observer(12, 4) as observer:
        assert isinstance(observer, progress.Lines)
        observer.step(3, 0.3, 0.8)
        observer.epoch(RECORD | {"epoch": 3})
    line = "epoch  3/12  train loss 0.2500 accuracy  90.00%  test loss 0.5000 accuracy  87.50%    1.2 s\n"
    assert capsys.readouterr().out == line


def test_live_bar_in_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setitem(os.environ, "COLUMNS", "150")
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    with progress.observer(12, 4) as observer:
        assert isinstance(observer, progress.Bar)
        observer.step(1, 0.3, 0.8)
        observer._bar.refresh()
        observer.epoch(RECORD | {"epoch": 1})
    shown = terminal.getvalue()
    assert "epoch 1/12" in shown
    assert "loss 0.3000 accuracy 80.00%" in shown
    assert "test loss 0.5000 accuracy  87.50%" in shown
