"""A few operators and shapes that together show a kernel that became slower.

    pytest benchmarks/ --benchmark-save=before
    pytest benchmarks/ --benchmark-compare --benchmark-compare-fail=median:5%

One process and fastconv alone: for comparisons with others see bench.py. Not part of the tests.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastconv import runtime

from .adapters import ours
from .ceilings import thread_counts
from .layer import LAYOUTS
from .shapes import conv, named
from .task import Task, operands

FORWARD = (
    "vgg16/conv1_1/b1",
    "vgg16/conv3_2/b1",
    "vgg16/conv5_1/b4",
    "alexnet/conv2/b8",
    "resnet50/conv1/b1",
    "resnet50/conv3_1b/b8",
    "resnet50/conv4_1c/b8",
    "resnext50/conv3_2b/b8",
    "mobilenetv2/block4_depthwise/b8",
    "convnext_tiny/stage2_depthwise/b8",
    "deeplabv3/aspp_d12/b1",
    "dcgan/conv2/b16",
    "m5/conv1/b1",
    "c3d/conv4b/b1",
    "filters/5x5_1024/b1",
    "vgg16/pool1/b4",
    "googlenet/3a_pool/b8",
)
BACKWARD = ("vgg16/conv3_2/b1", "resnet50/conv3_1b/b8", "mobilenetv2/block4_depthwise/b8")
TINY = conv("1x1x8x8", 1, 1, 8, 3, padding=1, bias=False)


@pytest.fixture(params=thread_counts(), ids=lambda count: f"{count}-threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """One thread, and all."""
    before = runtime.get_num_threads()
    runtime.set_num_threads(request.param)
    yield request.param
    runtime.set_num_threads(before)


def prepared(task: Task, layout: str) -> Callable[[], Any]:
    return ours.prepare(task, operands(task), layout).build()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str, layout: str, threads: int, benchmark: BenchmarkFixture) -> None:
    benchmark(prepared(Task(named(name)), layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str, layout: str, threads: int, benchmark: BenchmarkFixture) -> None:
    benchmark(prepared(Task(named(name), backward=True), layout))


def test_smallest_call(benchmark: BenchmarkFixture) -> None:
    benchmark(prepared(Task(TINY), "channels_first"))
