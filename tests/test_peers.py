"""Each peer's adapter computes what fastconv computes, for every operator it has; those not installed are skipped."""

import pytest

from fastconv.benchmarks import adapters
from fastconv.benchmarks.adapters import ENGINES, OURS, PEERS
from fastconv.benchmarks.engines import Engine, EngineError, check_agreement, started
from fastconv.benchmarks.layer import LAYOUTS
from fastconv.benchmarks.shapes import avg_pool, conv, max_pool, transposed
from fastconv.benchmarks.task import Task

pytestmark = pytest.mark.isa_independent

LAYERS = {
    "strided": conv("", 3, 5, (9, 8), 3, stride=2, padding=1),
    "dilated, in groups": conv("", 8, 8, (9, 8), 3, padding=(1, 2), dilation=2, groups=4),
    "causal": conv("", 4, 6, (20,), 3, padding=((2, 0),), bias=False),
    "3-D": conv("", 4, 6, (5, 6, 7), 3, padding=1),
    "transposed": transposed("", 4, 3, (5, 6), 4, stride=2, padding=1, output_padding=1),
    "transposed, 1-D": transposed("", 4, 3, (9,), 4, stride=2, padding=1),
    "maximum": max_pool("", 4, (9, 9), 3, 2, 1),
    "maximum, 1-D": max_pool("", 4, (16,), 4),
    "maximum, overhanging": max_pool("", 4, (8, 8), 3, 2, ceil_mode=True),
    "average": avg_pool("", 4, (8, 8), 2),
    "average, 3-D": avg_pool("", 4, (8, 8, 8), 2),
    "image": conv("", 1, 1, (20, 30), 5, padding=2, bias=False),
}

# What a peer does not have, by name of layer; all others it must.
LACKS = {"scipy": LAYERS.keys() - {"image"}, "opencv": LAYERS.keys() - {"image"}}


@pytest.fixture(scope="module", params=[peer for peer in PEERS if ENGINES[peer].layers])
def engines(request):
    missing = adapters.missing(request.param)
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    with started([Engine(OURS, 2), Engine(request.param, 2)]) as pair:
        yield pair


def has(peer, name, task, layout):
    """Whether an adapter should have a task."""
    if name in LACKS.get(peer, ()):
        return False
    if peer == "torch":
        return layout == "channels_first" or task.layer.ndim > 1
    return not (task.backward and peer != "jax")


@pytest.mark.parametrize("name", LAYERS)
def test_agrees(engines, name):
    ours, peer = engines
    adapter = ENGINES[peer.name]
    tasks = [Task(LAYERS[name], kind=kind) for kind in adapter.kinds]
    for task in (*tasks, Task(LAYERS[name], backward=True)):
        expected = ours.run("worker:prepare", task, LAYOUTS[0]).arrays
        for layout in adapter.layouts:
            first = peer.run("worker:prepare", task, layout)
            assert (first is not None) == has(peer.name, name, task, layout)
            if first is not None:
                check_agreement(task, OURS, expected, peer.name, first.arrays)


def test_float64_is_float64_or_not_there(engines):
    ours, peer = engines
    task = Task(LAYERS["image"], "float64", "layer")
    first = peer.run("worker:prepare", task, LAYOUTS[0])
    assert (first is None) == (peer.name in ("onnxruntime", "openvino"))
    if first is not None:
        check_agreement(task, OURS, ours.run("worker:prepare", task, LAYOUTS[0]).arrays, peer.name, first.arrays)


def test_a_peer_that_breaks_says_so(engines):
    with pytest.raises(EngineError, match="no_such_function"):
        engines[1].run("worker:no_such_function")
