"""The folder that a training leaves: everything that is needed to use the network again, and to repeat the training.

checkpoint.npz        the network's state after the last whole epoch
run.json              network, data, options, versions, and loss and accuracy of every epoch
learning_curve.png    the latter, drawn
confusion_matrix.png  which test pictures the checkpoint takes for what
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastconv import checkpoint, init, models
from fastconv.data import Preparation
from fastconv.layers import Layer

CHECKPOINT, RECORD = "checkpoint.npz", "run.json"
LEARNING_CURVE, CONFUSION_MATRIX = "learning_curve.png", "confusion_matrix.png"


class RunError(ValueError):
    """A folder is not a run, or not a whole one; the message starts with its path."""


@dataclass(slots=True)
class Run:
    """What `run.json` records: a network by name, the pictures that it takes, and how its training went.

    channels and size are those of the data's own pictures, before preparation; history has one mapping an epoch, with
    epoch, train_loss, train_accuracy, test_loss, test_accuracy (accuracies in 0..1) and seconds.
    """

    folder: Path
    model: str
    data: str
    classes: tuple[str, ...]
    channels: int
    size: int
    preparation: Preparation
    options: dict[str, Any]
    versions: dict[str, str]
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def test_accuracy(self) -> float | None:
        """Accuracy of the checkpoint on the test split, in 0..1; None before the first epoch has ended."""
        return self.history[-1]["test_accuracy"] if self.history else None

    def begin(self) -> None:
        """Make the folder, and put the record in the place of an older one, whose checkpoint is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINT, LEARNING_CURVE, CONFUSION_MATRIX):
            (self.folder / name).unlink(missing_ok=True)
        self._write_record()

    def save(self, network: Layer, epoch: dict[str, float]) -> None:
        """Replace checkpoint and record, each in one step: whatever interrupts this leaves both whole."""
        checkpoint.save(self.folder / CHECKPOINT, network.state_dict())
        self.history.append(epoch)
        self._write_record()

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Run:
        """Read the record of a run.

        Raises
        ------
        RunError
            If the folder has none, or a damaged one.
        """
        path = Path(folder) / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            record |= {"classes": tuple(record["classes"]), "preparation": _preparation(**record["preparation"])}
            del record["test_accuracy"]
            return cls(Path(folder), **record)
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{folder}: not a run folder: it has no {RECORD}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}: not the record of a run ({error})") from error

    def network(self) -> Layer:
        """Return the network as the last whole epoch left it, in evaluation mode.

        Raises
        ------
        RunError
            If there is no checkpoint, or it is damaged or that of another network.
        """
        path = self.folder / CHECKPOINT
        try:
            network = models.create(
                self.model, in_channels=self.channels, num_classes=len(self.classes), initializer=init.zeros
            )
            network.load_state_dict(checkpoint.load(path))
        except FileNotFoundError:
            raise RunError(f"{path}: no checkpoint: the training was stopped before its first epoch ended") from None
        except ValueError as error:
            raise RunError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
        return network.eval()

    def _write_record(self) -> None:
        record = asdict(self) | {"test_accuracy": self.test_accuracy}
        del record["folder"]
        temporary = self.folder / f".{RECORD}.{uuid.uuid4().hex}.tmp"
        try:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, self.folder / RECORD)
        finally:
            temporary.unlink(missing_ok=True)


def _preparation(size: int, mean: list[float], std: list[float]) -> Preparation:
    return Preparation(size, tuple(mean), tuple(std))


def new_folder(model: str, data: str, parent: str | os.PathLike[str] = "runs") -> Path:
    """Return the name of a folder that does not exist yet, parent/model-data-time."""
    stem = f"{model}-{data}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path(parent, stem), 1
    while folder.exists():
        number += 1
        folder = Path(parent, f"{stem}-{number}")
    return folder
