"""`python -m benchmarks.epoch`: fastconv's loop and PyTorch's learn the same, are timed in turn, and are told of."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fastconv import data, training
from fastconv.benchmarks import epoch
from fastconv.benchmarks.engines import EngineError

pytestmark = pytest.mark.isa_independent


def dataset(name="digits", channels=1, count=40):
    """Random pictures under the name of a dataset, and another half as many to test."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (count, channels, 32, 32), np.uint8), rng.integers(0, 10, count)
    return data.Dataset(name, data.DIGITS, images, labels, images[: count // 2], labels[: count // 2])


def epochs_of(prepare, plan, count, *extra):
    """So many epochs of what a process prepares."""
    session = SimpleNamespace()
    prepare(session, plan, *extra)
    return [epoch.run(session) for _ in range(count)]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_both_learn_the_same(optimizer):
    pytest.importorskip("torch")
    from fastconv.benchmarks.adapters.networks import pytorch_epoch

    plan = epoch.Plan(dataset(), training.Options(3, 8, optimizer, 1e-3, weight_decay=1e-3))
    ours = epochs_of(epoch.prepare, plan, 2)
    assert [len(one.losses) for one in ours] == [5, 5]
    assert ours[1].losses[-1] < ours[0].losses[-1]
    for layout, fused in (("channels_first", False), ("channels_last", True)):
        theirs = epochs_of(pytorch_epoch.prepare, plan, 2, layout, fused)
        for one, other in zip(ours, theirs, strict=True):
            assert epoch.apart(one, other) < 1e-4
            assert other.test_loss == pytest.approx(one.test_loss, rel=1e-4)


def test_fastconv_trains_as_the_command_does(tmp_path):
    few = dataset()
    options = training.Options(3, 8)
    run = training.train("lenet5", few, tmp_path, options)
    ours = epochs_of(epoch.prepare, epoch.Plan(few, options), 3)
    assert [one.losses[-1] for one in ours] == [record["train_loss"] for record in run.history]
    assert [one.test_loss for one in ours] == [record["test_loss"] for record in run.history]


def test_dropout_is_left_out():
    pytest.importorskip("torch")
    from fastconv.benchmarks.adapters.networks import pytorch_epoch

    plan = epoch.Plan(dataset("cifar10", 3, 16), training.Options(2, 8))
    (ours,), (theirs,) = (
        epochs_of(*how) for how in ((epoch.prepare, plan, 1), (pytorch_epoch.prepare, plan, 1, "channels_first", False))
    )
    assert epoch.apart(ours, theirs) < epoch.FAR


class Fake:
    """An engine whose epochs are known beforehand."""

    def __init__(self, *seconds, loss=1.0):
        self.epochs = iter([epoch.Epoch(s, [2.0, loss], 0.5) for s in seconds])

    def run(self, function):
        return next(self.epochs)


def test_ratios_are_those_of_a_round():
    ours, torch = epoch.measure([Fake(9, 1, 2, 4), Fake(9, 3, 4, 4)], ["fastconv", "PyTorch"], 3)
    assert ours["epoch"]["median"] == 2
    assert (torch["epoch"]["median"], torch["ratio"]["median"], torch["first"]) == (4, 2, 9)
    assert ours["ratio"]["median"] == 1
    with pytest.raises(EngineError, match=r"PyTorch: losses are 0\.0\d* apart from fastconv's"):
        epoch.measure([Fake(1, 1), Fake(1, 1, loss=1.01)], ["fastconv", "PyTorch"], 1)


def test_the_command(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(epoch, "TORCH", epoch.TORCH[:1])
    monkeypatch.setattr(data, "load", lambda folder: dataset())
    epoch.main(["--pictures", "32", "--epochs", "1", "--json", str(tmp_path / "epoch.json")])
    shown = capsys.readouterr().out
    for text in ("lenet5 on 32 pictures of digits", "PyTorch, channels_first", "times as long"):
        assert text in shown
    rows = json.loads((tmp_path / "epoch.json").read_text())["rows"]
    assert [row["engine"] for row in rows] == ["fastconv", "PyTorch, channels_first"]
    assert all(row["epoch"]["median"] > 0 and row["apart"] < epoch.FAR for row in rows)


def test_more_epochs_than_a_training_has_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda folder: dataset())
    with pytest.raises(SystemExit):
        epoch.main(["--epochs", "30"])
    assert "--epochs must be from 1 to 29" in capsys.readouterr().err
