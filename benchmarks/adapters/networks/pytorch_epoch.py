"""The loop of `fastconv.training` with PyTorch's network, loss, gradients and optimizer, on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import nn

from fastconv import training
from fastconv.augment import distort
from fastconv.layers import Layer
from fastconv.optim import Optimizer

from ...epoch import Epoch, Losses, Plan, epochs
from ...layer import Array
from ...worker import Session
from .pytorch import module

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
}


class Rated:
    """An optimizer of PyTorch whose learning rate is set as fastconv's is."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.inner = optimizer

    @property
    def lr(self) -> float:
        rate: float = self.inner.param_groups[0]["lr"]
        return rate

    @lr.setter
    def lr(self, rate: float) -> None:
        for group in self.inner.param_groups:
            group["lr"] = rate


class TorchTrainer(training.Trainer):
    """The same order, distortion, learning rates and counts; a step and a test are PyTorch's."""

    memory_format = torch.contiguous_format

    def _tensor(self, images: Array) -> torch.Tensor:
        return torch.from_numpy(self.preparation(images)).contiguous(memory_format=self.memory_format)

    def _step(self, batch: Array) -> tuple[float, int]:
        images, labels = self.dataset.train_images[batch], torch.from_numpy(self.dataset.train_labels[batch])
        if self.options.augment:
            images = distort(images, self.rng)
        network, optimizer = cast(nn.Module, self.network), cast(Rated, self.optimizer).inner
        optimizer.zero_grad()
        logits = network(self._tensor(images))
        loss = nn.functional.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        return loss.item(), int((logits.argmax(1) == labels).sum())

    def _test(self, epoch: int) -> tuple[float, Array]:
        network = cast(nn.Module, self.network).eval()
        images, labels = self.dataset.test_images, self.dataset.test_labels
        starts = range(0, len(images), training.TEST_BATCH)
        with torch.inference_mode():
            batches = [network(self._tensor(images[start : start + training.TEST_BATCH])) for start in starts]
            logits = torch.cat(batches)
            loss = nn.functional.cross_entropy(logits, torch.from_numpy(labels)).item()
        return self._finite(loss, epoch), training.confusion_counts(logits.numpy(), labels)


def prepare(session: Session, plan: Plan, data_format: str, fused: bool) -> None:
    """Get PyTorch ready to train in this process, in a memory format, its optimizer fused or as it is by default."""
    dataset, options = plan.dataset, plan.options
    network, preparation, order = training.beginning(plan.model, dataset, options)
    channels = dataset.train_images.shape[1]
    with torch.inference_mode(False):  # which the adapter of layers has entered for good
        theirs = module(network.eval(), (1, channels, preparation.size, preparation.size)).requires_grad_(True)
        if data_format == "channels_last":
            theirs = theirs.to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS[options.optimizer](
        theirs.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=fused or None
    )
    losses = Losses()
    trainer = TorchTrainer(
        cast(Layer, theirs), cast(Optimizer, Rated(optimizer)), dataset, preparation, options, order, losses
    )
    if data_format == "channels_last":
        trainer.memory_format = torch.channels_last
    call = epochs(trainer, losses)

    def trained() -> Epoch:
        with torch.inference_mode(False), torch.enable_grad():
            return call()

    session.call = trained
