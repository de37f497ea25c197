"""A few operators and shapes that together show a kernel that became slower.

    pytest benchmarks/ --benchmark-save=before
    pytest benchmarks/ --benchmark-compare --benchmark-compare-fail=median:5%

One process and fastconv alone: for comparisons with others see versus_torch.py. Not part of the tests.
"""

from collections.abc import Iterator

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import fastconv.functional as ff
from benchmarks.adapters import ours
from benchmarks.ceilings import thread_counts
from benchmarks.layer import LAYOUTS, operands, padding_argument, plain
from benchmarks.shapes import conv, named, out_shape
from fastconv import runtime

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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str, layout: str, threads: int, benchmark: BenchmarkFixture) -> None:
    layer = named(name)
    call, _ = ours.prepare(layer, operands(layer, "float32"), layout, "functional")
    benchmark(call)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BACKWARD)
def test_backward(name: str, layout: str, threads: int, benchmark: BenchmarkFixture) -> None:
    layer = named(name)
    x, weight, _ = operands(layer, "float32")
    grad_y = np.random.default_rng(0).standard_normal(out_shape(layer), np.float32)
    if layout == "channels_last":
        x, grad_y = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, grad_y))
    backward = getattr(ff, f"conv{layer.ndim}d_backward")
    options = {"stride": plain(layer.stride), "padding": padding_argument(layer), "dilation": plain(layer.dilation),
               "groups": layer.groups, "data_format": layout}  # fmt: skip
    benchmark(backward, grad_y, x, weight, **options)


def test_smallest_call(benchmark: BenchmarkFixture) -> None:
    call, _ = ours.prepare(TINY, operands(TINY, "float32"), "channels_first", "functional")
    benchmark(call)
