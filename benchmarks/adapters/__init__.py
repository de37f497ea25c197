"""How an engine runs a task: a module each.

    start(threads) -> {package: version}     once, in the engine's own process
    prepare(task, operands, data_format)     what is to be timed: `Prepared`, or `Unsupported` is raised

Moving the operands, which come channels first, to the layout in which they are read is part of `prepare`; planning,
compiling and packing weights is part of `Prepared.build`. `ENGINES` says where an engine is found; no other engine is
loaded beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

from ..dropins import Model
from ..layer import LAYOUTS, Array
from ..networks import Inference, Job
from ..task import KINDS, Task


class Unsupported(Exception):
    """An engine does not have the operator in that layout or dtype."""


class Prepared(NamedTuple):
    """A task that is about to be timed."""

    build: Callable[[], Callable[[], Any]]
    """Plans, packs and compiles; returns the call."""
    arrays: Callable[[Any], tuple[Array | None, ...]]
    """The call's result, y or the gradients of x, weight and bias, as arrays with channels first."""


@dataclass(frozen=True)
class Way:
    """The call that was the quickest of several ways, by name."""

    how: str
    call: Callable[[], Any]

    def __call__(self) -> Any:
        return self.call()


@dataclass(frozen=True)
class Adapter:
    """Where an engine is found, and which rows it takes part in."""

    module: str
    packages: tuple[str, ...]
    layouts: tuple[str, ...] = LAYOUTS
    kinds: tuple[str, ...] = KINDS
    any_isa: bool = False  # can be held to an ISA below the machine's widest
    images_only: bool = False
    deforms: bool = False  # has deformable convolution
    layers: bool = True  # runs single layers
    networks: bool = False  # has a module of the same name in networks/, which runs whole ones
    dropins: str = ""  # its module in dropins/, which runs models that people have


FIRST = LAYOUTS[:1]
OURS = "fastconv"
ENGINES = {
    OURS: Adapter("ours", (), any_isa=True, deforms=True, networks=True, dropins="ours"),
    "torch": Adapter("pytorch", ("torch",), any_isa=True, networks=True, dropins="pytorch"),
    "torch.compile": Adapter("pytorch", ("torch",), layers=False, dropins="compiled"),
    "onnxruntime": Adapter(
        "onnxruntime", ("onnxruntime", "onnx"), FIRST, ("layer",), networks=True, dropins="onnxruntime"
    ),
    "openvino": Adapter("openvino", ("openvino", "onnx"), kinds=("layer",), networks=True, dropins="openvino"),
    "jax": Adapter("jax", ("jax",), any_isa=True),
    "scipy": Adapter("scipy", ("scipy",), FIRST, any_isa=True, images_only=True),
    "opencv": Adapter("opencv", ("cv2",), FIRST, images_only=True),
}
PEERS = tuple(name for name in ENGINES if name != OURS)


def load(engine: str) -> ModuleType:
    """The adapter of an engine, for its own process."""
    return import_module(f".{ENGINES[engine].module}", __package__)


def load_for(engine: str, job: Inference | Model) -> ModuleType:
    """What runs whole networks, or models that people have, beside it."""
    entry = ENGINES[engine]
    name = f"dropins.{entry.dropins}" if isinstance(job, Model) else f"networks.{entry.module}"
    return import_module(f".{name}", __package__)


def missing(engine: str) -> list[str]:
    """Packages of an engine that are not installed; none is imported."""
    return [package for package in ENGINES[engine].packages if find_spec(package) is None]


def taking_part(engines: Iterable[str], kind: str, tasks: Sequence[Job], widest_isa: bool = True) -> list[str]:
    """Those of the engines that have rows of this kind, ISA and these tasks."""
    images = any(isinstance(task, Task) and task.layer.filters_images for task in tasks)
    entries = [(engine, ENGINES[engine]) for engine in engines]
    return [
        name
        for name, entry in entries
        if kind in entry.kinds
        and (images or not entry.images_only)
        and all(_runs(name, entry, task) for task in tasks)
        and (widest_isa or entry.any_isa)
    ]


def _runs(name: str, entry: Adapter, task: Job) -> bool:
    """Whether an engine runs tasks of a kind: layers, whole networks, or models that are for it."""
    if isinstance(task, Model):
        return name in task.peers
    if isinstance(task, Inference):
        return entry.networks
    return entry.layers and (entry.deforms or not task.layer.deforms)
