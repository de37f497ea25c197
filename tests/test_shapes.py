"""The layers of real networks that benchmarks time: their geometry, and that each is computed as the oracle does."""

from dataclasses import replace
from functools import cache
from itertools import product
from math import prod

import numpy as np
import pytest
from cases import LAYOUTS, laid_out
from conftest import ISAS, using_isa
from tolerance import assert_within, bound

import fastconv.functional as ff
from fastconv import reference
from fastconv.benchmarks import shapes
from fastconv.benchmarks.layer import Layer, padding_argument, plain

# What the oracle does within a tenth of a second.
MOST_WEIGHTS = 1_200_000
MOST_MULTIPLY_ADDS = 80_000_000


# Published or counted in the authors' released models; where the published total has linear or normalisation layers
# beside the convolutions, theirs are taken off.
@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        ("lenet5", 61_706 - 10_164 - 850),
        ("alexnet", 60_965_224 - 58_631_144),
        ("vgg16", 138_357_544 - 123_642_856),
        ("googlenet", 6_998_552 - 1_025_000),
        ("resnet50", 25_557_032 - 2_049_000 - 53_120),
        ("resnext50", 25_028_904 - 2_049_000 - 68_224),
        ("mobilenetv2", 3_504_872 - 1_281_000 - 34_112),
        ("convnext_tiny", 28_589_128 - 769_000 - 22_944),
        ("unet", 31_030_658),
        ("c3d", 27_655_936),
        ("r3d18", 33_371_472 - 205_200 - 9_600),
    ],
)
def test_networks_have_the_known_number_of_parameters(network, parameters):
    assert sum(shapes.parameters(row) * row.times for row in shapes.NETWORKS[network]) == parameters


def test_inputs_follow_from_the_outputs_before_them():
    networks = [shapes.NETWORKS[name] for name in ("lenet5", "alexnet", "vgg16", "unet", "dcgan", "m5", "c3d")]
    for rows in (*networks, shapes.unet(128, padding=1)):
        before = None
        for row in rows:
            assert before is None or row.size == before, row.name
            before = shapes.out_shape(row)[2:]
            if row.layer.startswith("up") and row.operator == "conv_transpose":
                assert row.in_channels == 2 * row.out_channels


def test_every_row_is_valid_and_named_once():
    names = [row.name for row in shapes.LAYERS]
    assert len(set(names)) == len(names)
    geometries = [(row.operator, row.masked, shapes.geometry_of(row)) for row in shapes.LAYERS]
    assert len(set(geometries)) == len(geometries)
    for row in shapes.LAYERS:
        assert shapes.named(row.name) == row
        assert min(shapes.out_shape(row)) >= 1
        assert shapes.multiply_adds(row) > 0


def test_layers_are_found_by_name_and_operator():
    assert {row.layer for row in shapes.find("vgg16/pool")} == {f"pool{stage}" for stage in range(1, 6)}
    assert [row.batch for row in shapes.find("vgg16/conv1_1/")] == [1, 4]
    assert {row.operator for row in shapes.find("conv_transpose")} == {"conv_transpose"}
    assert len(shapes.find(None)) == len(shapes.LAYERS)
    with pytest.raises(KeyError):
        shapes.named("vgg16/conv9_9/b1")


def test_products_with_padding_are_not_counted():
    dense = shapes.conv("", 2, 3, (5,), 3)
    padded = shapes.conv("", 2, 3, (5,), 3, padding=1)
    assert shapes.multiply_adds(dense) == 3 * 3 * 2 * 3
    assert shapes.multiply_adds(padded) == (5 * 3 - 2) * 2 * 3
    assert shapes.multiply_adds(shapes.transposed("", 2, 3, (5,), 3, stride=2)) == 5 * 3 * 2 * 3
    assert shapes.multiply_adds(shapes.transposed("", 2, 3, (5,), 3, stride=2, padding=1)) == (5 * 3 - 2) * 2 * 3
    assert shapes.compulsory_bytes(padded, "float64") == 8 * (2 * 5 + 3 * (2 * 3 + 1) + 3 * 5)


@pytest.mark.parametrize(("masked", "numbers"), [(False, 2), (True, 3)])
def test_a_deformable_layer_reads_offsets_and_masks_beside_the_dense_ones(masked, numbers):
    layer = shapes.deformable("", 4, 6, 9, 3, stride=2, padding=1, masked=masked)
    dense = shapes.conv("", 4, 6, 9, 3, stride=2, padding=1)
    assert shapes.out_shape(layer) == shapes.out_shape(dense) == (1, 6, 5, 5)
    assert shapes.multiply_adds(layer) == shapes.multiply_adds(dense)
    extra = shapes.compulsory_bytes(layer, "float32") - shapes.compulsory_bytes(dense, "float32")
    assert extra == 4 * numbers * 9 * 5 * 5


def reduced(layer):
    """The same kernel, stride, padding, dilation and groups over two images that are just large enough to tell.

    Whatever its batch, so that a layer is computed once for all of its batches.

    Fewer channels only where the oracle would take too long.
    """
    spans = [d * (k - 1) + 1 for k, d in zip(layer.kernel, layer.dilation, strict=True)]
    room = {1: 40, 2: 6, 3: 3}[layer.ndim]
    steps = (1,) * layer.ndim if layer.operator == "conv_transpose" else layer.stride
    size = tuple(min(i, span + room * s) for i, span, s in zip(layer.size, spans, steps, strict=True))
    row = replace(layer, batch=2, size=size)
    while not row.pools and (prod(row.weight_shape) > MOST_WEIGHTS or shapes.multiply_adds(row) > MOST_MULTIPLY_ADDS):
        wider = "in_channels" if row.in_channels >= row.out_channels else "out_channels"
        row = replace(row, **{wider: getattr(row, wider) // 2})
    return row


@cache
def distinct():
    """Reduced layers, each once, by the name of the first that they stand for; test_deform.py has the deformable."""
    rows = {}
    for layer in (layer for layer in shapes.LAYERS if not layer.deforms):
        rows.setdefault(reduced(layer).geometry_key, layer.name)
    return {name: row for row, name in rows.items()}


def draw(shape, seed):
    """Of random sign and a magnitude of 1/2 to 1, so that a product that is missing shows."""
    u = np.random.default_rng([seed, *shape]).random(shape, np.float32)
    return np.where(u < 0.5, u - 1, u)


def forward(module, layer, data_format, *arrays):
    """The layer by fastconv.functional or by the oracle."""
    options = {"stride": plain(layer.stride), "padding": padding_argument(layer), "data_format": data_format}
    if layer.pools:
        options |= {"kernel_size": plain(layer.kernel), "ceil_mode": layer.ceil_mode}
    else:
        options |= {"dilation": plain(layer.dilation), "groups": layer.groups}
    if layer.operator == "conv_transpose":
        options |= {"output_padding": plain(layer.output_padding)}
    return getattr(module, f"{layer.operator}{layer.ndim}d")(*arrays, **options)


def drawn(layer):
    x = draw(layer.x_shape, 0)
    return (x,) if layer.pools else (x, draw(layer.weight_shape, 1), draw((layer.out_channels,), 2))


def limit(layer, x, weight=None, bias=None):
    """How far y may be off: a maximum is exact, a mean the sum of its elements over their number."""
    if layer.operator == "max_pool":
        return 0.0
    taps = prod(layer.kernel)
    if layer.operator == "avg_pool":
        return bound("float32", taps, x, np.ones(1)) / taps
    return bound("float32", layer.in_channels // layer.groups * taps, x, weight)


@pytest.mark.every_isa
@pytest.mark.parametrize("name", distinct())
def test_forward(name):
    layer: Layer = distinct()[name]
    x, *weights = drawn(layer)
    exact = forward(reference, layer, "channels_first", *(a.astype(np.float64) for a in (x, *weights)))
    for isa, layout in product(ISAS, LAYOUTS):  # all of them by one call of the oracle, which takes longer
        with using_isa(isa):
            y = forward(ff, layer, layout, laid_out(x, layout, "float32"), *weights)
        assert_within(y, laid_out(exact, layout, "float64"), limit(layer, x, *weights), "float32")
