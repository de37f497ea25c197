"""Training a network on pictures: epochs of shuffled, distorted batches, tested and saved after each.

    run = training.train("lenet5", data.load(), "runs/first", training.Options(epochs=20, seed=1))
    print(run.test_accuracy)

One seed gives one result: initial weights, order and distortion of the pictures, and dropout have generators of their
own, spawned from it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastconv import functional as F
from fastconv import models, plots, runtime
from fastconv.augment import distort
from fastconv.data import Dataset, Preparation
from fastconv.extras import require
from fastconv.layers import Layer
from fastconv.optim import SGD, Adam, Optimizer
from fastconv.runs import CONFUSION_MATRIX, LEARNING_CURVE, Run

Array = NDArray[Any]

TEST_BATCH = 256


@dataclass(frozen=True, slots=True)
class Options:
    """How to train.

    Parameters
    ----------
    epochs
        How often every training picture is seen.
    batch_size
        Pictures a step; an epoch's steps differ by at most one picture.
    optimizer
        A key of `OPTIMIZERS`: "adam", or "sgd" with momentum 0.9.
    lr
        Highest learning rate, see `learning_rate`; `LEARNING_RATES` has what suits each optimizer.
    weight_decay
        Factor of the parameters that is added to their gradients.
    augment
        Whether to distort the training pictures, see `fastconv.augment.distort`.
    seed
        Of everything random.

    Raises
    ------
    ValueError
        If a number is out of its range or there is no such optimizer.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: str = "adam"
    lr: float = 2e-3
    weight_decay: float = 0.0
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be a finite number above 0, got {self.lr}")


LEARNING_RATES = {"adam": 2e-3, "sgd": 2e-2}
OPTIMIZERS: dict[str, Callable[[dict[str, Array], float, float], Optimizer]] = {
    "adam": lambda parameters, lr, decay: Adam(parameters, lr, weight_decay=decay),
    "sgd": lambda parameters, lr, decay: SGD(parameters, lr, momentum=0.9, weight_decay=decay),
}

# The networks that can be trained to name what is in a picture.
CLASSIFIERS = tuple(name for name, network in models.NETWORKS.items() if not network.segments)

# What suits each dataset: network, epochs, batch size.
DEFAULTS: dict[str, tuple[str, int, int]] = {
    "digits": ("lenet5", 30, 32),
    "mnist": ("lenet5", 8, 64),
    "fashion-mnist": ("fashion-maxpool", 10, 64),
    "cifar10": ("cifar-maxpool", 20, 64),
}


class DivergedError(ArithmeticError):
    """The loss is not a finite number any more."""


class InterruptedTraining(KeyboardInterrupt):
    """Ctrl-C during a training; `run` is what it had reached, checkpoint and pictures included."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"stopped after {len(run.history)} whole epochs")
        self.run = run


class Observer(Protocol):
    """Is told how a training goes."""

    def step(self, epoch: int, loss: float, accuracy: float) -> None:
        """One batch is done; loss and accuracy are those of this epoch so far."""

    def epoch(self, record: dict[str, float]) -> None:
        """One epoch is done, tested and saved; record is its entry in the run's history."""


class Silent:
    """An observer that tells nobody."""

    def step(self, epoch: int, loss: float, accuracy: float) -> None:
        pass

    def epoch(self, record: dict[str, float]) -> None:
        pass


def train(
    model: str,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    options: Options = Options(),
    observer: Observer | None = None,
) -> Run:
    """Train a network from its beginning, and leave checkpoint, record and pictures in a folder.

    After every epoch the network is tested, and checkpoint and record are replaced, each in one step. The accuracy of a
    run is that of its last epoch: the test split chooses nothing.

    Parameters
    ----------
    model
        One of `CLASSIFIERS`.
    dataset
        Its pictures are brought to the network's size; channels and classes of the network follow the dataset.
    folder
        Is made if need be; an older run in it is replaced.
    options
        How to train.
    observer
        Is told of every batch and epoch. Default: nobody.

    Raises
    ------
    ValueError
        If there is no such network, or it has logits for every pixel.
    DivergedError
        If the loss becomes infinite or not a number.
    InterruptedTraining
        At a Ctrl-C, after the pictures of what was reached have been drawn.
    MissingExtraError
        If matplotlib is not installed.
    """
    if model not in CLASSIFIERS:
        raise ValueError(f"model must be one of {', '.join(CLASSIFIERS)}, got {model!r}")
    require("matplotlib", extra="train")  # now, and not when all is learned
    network, preparation, order = beginning(model, dataset, options)
    channels, size = dataset.train_images.shape[1:3]
    run = Run(
        Path(folder), model, dataset.name, dataset.classes, channels, size, preparation, asdict(options), runtime.info()
    )
    run.begin()
    optimizer = OPTIMIZERS[options.optimizer](network.parameters(), options.lr, options.weight_decay)
    trainer = Trainer(network, optimizer, dataset, preparation, options, order, observer or Silent())
    confusion = np.zeros((len(dataset.classes),) * 2, np.int64)
    try:
        for record, counts in trainer.epochs():
            run.save(network, record)
            confusion = counts
            trainer.observer.epoch(record)
    except KeyboardInterrupt:
        _draw(run, confusion)
        raise InterruptedTraining(run) from None
    _draw(run, confusion)
    return run


def beginning(model: str, dataset: Dataset, options: Options) -> tuple[Layer, Preparation, np.random.Generator]:
    """Return a network with its initial weights, how pictures are brought to it, and the generator of their order and
    distortion."""
    weights, order = (np.random.default_rng(seed) for seed in np.random.SeedSequence(options.seed).spawn(2))
    channels = dataset.train_images.shape[1]
    network = models.create(model, in_channels=channels, num_classes=len(dataset.classes), rng=weights)
    return network, Preparation.of(dataset, models.NETWORKS[model].size), order


@dataclass(slots=True)
class Trainer:
    """The loop of `train`, which trains as far as `epochs` is iterated over."""

    network: Layer
    optimizer: Optimizer
    dataset: Dataset
    preparation: Preparation
    options: Options
    rng: np.random.Generator
    observer: Observer

    def epochs(self) -> Iterator[tuple[dict[str, float], Array]]:
        """Yield the record and the confusion matrix of each epoch."""
        for epoch in range(1, self.options.epochs + 1):
            start = time.perf_counter()
            loss, accuracy = self._learn(epoch)
            test_loss, confusion = self._test(epoch)
            yield (
                {
                    "epoch": epoch,
                    "train_loss": loss,
                    "train_accuracy": accuracy,
                    "test_loss": test_loss,
                    "test_accuracy": float(np.trace(confusion) / confusion.sum()),
                    "seconds": round(time.perf_counter() - start, 3),
                },
                confusion,
            )

    @np.errstate(over="ignore", invalid="ignore")  # the loss tells
    def _learn(self, epoch: int) -> tuple[float, float]:
        """Go once over the training pictures; return loss and accuracy as they were on the way."""
        self.network.train()
        order = self.rng.permutation(len(self.dataset.train_labels))
        batches = np.array_split(order, steps_per_epoch(self.dataset, self.options))
        loss, hits, seen = 0.0, 0, 0
        for step, batch in enumerate(batches):
            self.optimizer.lr = learning_rate(step + len(batches) * (epoch - 1), len(batches), self.options)
            batch_loss, batch_hits = self._step(batch)
            loss += self._finite(batch_loss, epoch) * len(batch)
            hits, seen = hits + batch_hits, seen + len(batch)
            self.observer.step(epoch, loss / seen, hits / seen)
        return loss / seen, hits / seen

    @np.errstate(over="ignore", invalid="ignore")
    def _test(self, epoch: int) -> tuple[float, Array]:
        """Return loss and confusion matrix of the test pictures."""
        labels = self.dataset.test_labels
        logits = predict(self.network, self.dataset.test_images, self.preparation)
        return self._finite(float(F.cross_entropy(logits, labels)), epoch), confusion_counts(logits, labels)

    def _finite(self, loss: float, epoch: int) -> float:
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} in epoch {epoch}: try a learning rate below {self.options.lr}")
        return loss

    def _step(self, batch: Array) -> tuple[float, int]:
        images, labels = self.dataset.train_images[batch], self.dataset.train_labels[batch]
        if self.options.augment:
            images = distort(images, self.rng)
        logits = self.network(self.preparation(images))
        self.network.zero_grad()
        self.network.backward_parameters(F.cross_entropy_backward(logits, labels))
        self.optimizer.step(self.network.gradients())
        return float(F.cross_entropy(logits, labels)), int((logits.argmax(1) == labels).sum())


def steps_per_epoch(dataset: Dataset, options: Options) -> int:
    """Return how many batches the training pictures are split into."""
    return -(-len(dataset.train_labels) // options.batch_size)


def learning_rate(step: int, steps_per_epoch: int, options: Options) -> float:
    """Return the learning rate of a step, counted from 0: it rises for an epoch, then falls along a cosine to 0.

    lr * min(1, (step + 1) / steps_per_epoch) * (1 + cos(pi * step / steps)) / 2

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """
    warm = min(1.0, (step + 1) / steps_per_epoch)
    return options.lr * warm * (1 + math.cos(math.pi * step / (steps_per_epoch * options.epochs))) / 2


def predict(network: Layer, images: Array, preparation: Preparation) -> Array:
    """Return the logits (N, classes) of pictures (N, C, S, S); leaves the network in evaluation mode."""
    network.eval()
    batches = range(0, len(images), TEST_BATCH)
    return np.concatenate([network(preparation(images[start : start + TEST_BATCH])) for start in batches])


def confusion_counts(logits: Array, labels: Array) -> Array:
    """Return how many pictures of each class (rows) were taken for each class (columns), int64."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(1), minlength=classes**2).reshape(classes, classes)


def _draw(run: Run, confusion: Array) -> None:
    if run.test_accuracy is None:
        return
    name = f"{run.model} on {run.data}"
    plots.learning_curve(run.folder / LEARNING_CURVE, run.history, f"{name}, seed {run.options['seed']}")
    title = f"{name}: {run.test_accuracy:.2%} of {confusion.sum()} test pictures right"
    plots.confusion_matrix(run.folder / CONFUSION_MATRIX, confusion, run.classes, title)
