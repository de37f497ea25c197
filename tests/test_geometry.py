"""Geometries against PyTorch's output shapes over grids of arguments, the lectures' sizes, and their own invariants."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastconv.geometry as geometry
from fastconv.geometry import (
    ConvGeometry,
    adaptive_pool_geometry,
    conv_geometry,
    conv_output_size,
    conv_transpose_geometry,
    conv_transpose_output_size,
    deform_conv_geometry,
    fold_geometry,
    is_batched,
    parameter_count,
    pool_geometry,
    pool_output_size,
    receptive_field,
    unfold_geometry,
    unpool_geometry,
)

pytestmark = pytest.mark.isa_independent

SPATIAL = {1: (9,), 2: (8, 5), 3: (5, 6, 4)}
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}

ndims = pytest.mark.parametrize("ndim", [1, 2, 3])


def skewed(value: int, ndim: int) -> tuple[int, ...]:
    """`value` along the first axis, 1 more along the second, `value` again along the third."""
    return tuple(value + axis % 2 for axis in range(ndim))


def last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The channels_last shape of a channels_first one."""
    return (shape[0], *shape[2:], shape[1])


def agree(torch_shape, ours) -> None:
    """Both give the same shape, or both refuse the arguments; PyTorch's rare empty outputs count as refused."""
    try:
        expected = tuple(torch_shape())
    except RuntimeError:
        expected = (0,)
    if 0 in expected:
        with pytest.raises(ValueError, match=r" must .* got "):
            ours()
    else:
        assert ours() == expected


@ndims
def test_conv_shapes_are_torchs(ndim):
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 4), (1, 2)):
        x = torch.empty(2, 4, *SPATIAL[ndim])
        weight = torch.empty(6, 2, *skewed(kernel, ndim))
        options = {"stride": skewed(stride, ndim), "padding": padding, "dilation": skewed(dilation, ndim), "groups": 2}

        def ours(x=x, weight=weight, options=options):
            geo = conv_geometry(tuple(x.shape), tuple(weight.shape), **options, ndim=ndim)
            turned = conv_geometry(
                last(x.shape), tuple(weight.shape), **options, data_format="channels_last", ndim=ndim
            )
            assert turned == dataclasses.replace(geo, channels_last=True)
            assert (geo.x_shape, geo.weight_shape) == (tuple(x.shape), tuple(weight.shape))
            assert (turned.x_shape, turned.y_shape) == (last(geo.x_shape), last(geo.y_shape))
            return geo.y_shape

        agree(lambda x=x, weight=weight, options=options: CONV[ndim](x, weight, **options).shape, ours)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_keeps_the_size_and_pads_more_at_the_end(kernel, dilation):
    x, weight = torch.randn(1, 1, 6), torch.randn(1, 1, kernel)
    geo = conv_geometry(x.shape, weight.shape, padding="same", dilation=dilation, ndim=1)
    total = dilation * (kernel - 1)
    assert geo.padding == ((total // 2, total - total // 2),)
    padded = F.conv1d(F.pad(x, geo.padding[0]), weight, dilation=dilation)
    torch.testing.assert_close(padded, F.conv1d(x, weight, padding="same", dilation=dilation))


@ndims
def test_conv_transpose_shapes_are_torchs(ndim):
    size = tuple(s - 3 for s in SPATIAL[ndim])
    grid = itertools.product((1, 2, 3), (1, 2), (0, 1, 3), (0, 1, 2), (1, 2, 3))
    for kernel, stride, padding, output_padding, dilation in grid:
        x = torch.empty(2, 4, *size)
        weight = torch.empty(4, 3, *skewed(kernel, ndim))
        options = {
            "stride": skewed(stride, ndim),
            "padding": padding,
            "output_padding": output_padding,
            "groups": 2,
            "dilation": dilation,
        }

        def ours(x=x, weight=weight, options=options):
            geo = conv_transpose_geometry(tuple(x.shape), tuple(weight.shape), **options, ndim=ndim)
            assert (geo.y_shape, geo.weight_shape) == (tuple(x.shape), tuple(weight.shape))
            assert (geo.in_channels, geo.out_channels) == (6, 4)
            return geo.x_shape

        agree(lambda x=x, weight=weight, options=options: CONV_TRANSPOSE[ndim](x, weight, **options).shape, ours)


@ndims
@pytest.mark.parametrize("channels_last", [False, True])
def test_conv_transpose_geometry_is_that_of_the_forward_convolution(ndim, channels_last):
    data_format = "channels_last" if channels_last else "channels_first"
    for kernel, stride, padding in itertools.product((1, 3), (1, 2), (0, 1)):
        x_shape = (2, 4, *SPATIAL[ndim])
        weight_shape = (4, 3, *(kernel,) * ndim)
        options = {"stride": stride, "padding": padding, "groups": 2, "data_format": data_format, "ndim": ndim}
        transposed = conv_transpose_geometry(last(x_shape) if channels_last else x_shape, weight_shape, **options)
        forward = conv_geometry(transposed.x_shape, weight_shape, **options)
        assert forward == transposed


def test_conv_transpose_is_the_backward_input_of_its_geometry():
    """Also where output_padding >= stride, so that out_size is not what the forward size formula would give."""
    x, weight = torch.randn(1, 2, 4), torch.randn(2, 1, 3)
    options = {"stride": 1, "padding": 2, "dilation": 3}
    geo = conv_transpose_geometry(x.shape, weight.shape, output_padding=2, **options, ndim=1)
    assert conv_geometry(geo.x_shape, weight.shape, **options, ndim=1).out_size != geo.out_size
    y = torch.zeros(geo.x_shape)
    for o, t in itertools.product(range(4), range(3)):
        position = o * geo.stride[0] + t * geo.dilation[0] - geo.padding[0][0]
        if 0 <= position < geo.in_size[0]:
            y[0, 0, position] += (x[0, :, o] * weight[:, 0, t]).sum()
    torch.testing.assert_close(y, F.conv_transpose1d(x, weight, output_padding=2, **options))


@ndims
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pool_shapes_are_torchs(ndim, ceil_mode):
    for kernel, stride, padding, dilation in itertools.product((1, 2, 3, 5), (None, 1, 2, 4), (0, 1, 2), (1, 2)):
        x = torch.empty(2, 3, *SPATIAL[ndim])
        arguments = (skewed(kernel, ndim), stride, padding)

        def ours(x=x, arguments=arguments, dilation=dilation):
            geo = pool_geometry(tuple(x.shape), *arguments, dilation, ceil_mode=ceil_mode, ndim=ndim)
            assert geo.x_shape == tuple(x.shape)
            starts = ((o - 1) * s - b for o, s, (b, _) in zip(geo.out_size, geo.stride, geo.padding, strict=True))
            assert all(start < size for start, size in zip(starts, geo.in_size, strict=True))
            return geo.y_shape

        def theirs(x=x, arguments=arguments, dilation=dilation):
            return MAX_POOL[ndim](x, *arguments, dilation, ceil_mode=ceil_mode).shape

        agree(theirs, ours)
        # avg_pool3d alone compares the kernel with the input before padding
        larger = any(k > size for k, size in zip(arguments[0], SPATIAL[ndim], strict=True))
        if dilation == 1 and not (ndim == 3 and larger):
            agree(lambda x=x, arguments=arguments: AVG_POOL[ndim](x, *arguments, ceil_mode=ceil_mode).shape, ours)


def test_pool_takes_the_asymmetric_padding_that_torch_lacks():
    geo = pool_geometry((1, 1, 6), 3, 2, ((0, 1),), ceil_mode=True, ndim=1)
    assert (geo.padding, geo.out_size) == (((0, 1),), (3,))


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_adaptive_windows_are_torchs(size, count):
    x = torch.randn(1, 1, size, 4)
    geo = adaptive_pool_geometry(x.shape, (count, None), ndim=2)
    windows = geo.windows(0)
    means = torch.stack([x[:, :, start:stop].mean(2) for start, stop in windows], 2)
    torch.testing.assert_close(means, F.adaptive_avg_pool2d(x, (count, None)))
    pool = geo.as_pool()
    assert (pool is None) == bool(size % count)
    if pool is not None:
        assert pool == pool_geometry(x.shape, (size // count, 1), ndim=2)


def test_adaptive_output_size_none_keeps_the_input_size():
    assert adaptive_pool_geometry((2, 3, 4, 5), None, ndim=2).out_size == (4, 5)
    assert adaptive_pool_geometry((2, 4, 5, 3), (None, 2), data_format="channels_last", ndim=2).y_shape == (2, 4, 2, 3)


@ndims
def test_unpool_shapes_are_torchs(ndim):
    for kernel, stride, padding in itertools.product((2, 3), (None, 1, 2), (0, 1)):
        x = torch.zeros(2, 3, *(3,) * ndim)
        indices = torch.arange(3**ndim).reshape(3, *(3,) * (ndim - 1)).expand(2, 3, *(3,) * ndim)
        default = unpool_geometry(tuple(x.shape), kernel, stride, padding, ndim=ndim)
        assert default.y_shape == tuple(x.shape)
        for change in range(-3, 4):
            size = tuple(s + change for s in default.in_size)

            def theirs(x=x, indices=indices, window=(kernel, stride, padding), size=size):
                try:
                    return UNPOOL[ndim](x, indices, *window, output_size=size).shape
                except ValueError as error:
                    raise RuntimeError from error

            def ours(x=x, window=(kernel, stride, padding), size=size):
                whole = unpool_geometry(tuple(x.shape), *window, output_size=(*x.shape[:2], *size), ndim=ndim)
                assert whole == unpool_geometry(tuple(x.shape), *window, output_size=size, ndim=ndim)
                return whole.x_shape

            if min(size) ** ndim >= 3**ndim:
                agree(theirs, ours)


def test_unfold_and_fold_shapes_are_torchs():
    grid = itertools.product((1, 2, (3, 2)), (1, (2, 3)), (0, (1, 2)), (1, (2, 1)))
    for kernel, dilation, padding, stride in grid:
        window = (kernel, dilation, padding, stride)
        x = torch.empty(2, 3, 6, 7)
        columns = F.unfold(x, *window)
        geo = unfold_geometry(tuple(x.shape), *window, ndim=2)
        taps, windows = geo.kernel[0] * geo.kernel[1], geo.out_size[0] * geo.out_size[1]
        assert (2, 3 * taps, windows) == tuple(columns.shape)
        assert fold_geometry(tuple(columns.shape), (6, 7), *window, ndim=2) == geo
        turned = fold_geometry((2, windows, 3 * taps), (6, 7), *window, data_format="channels_last", ndim=2)
        assert turned == dataclasses.replace(geo, channels_last=True)


@ndims
def test_unfold_has_the_windows_of_a_convolution(ndim):
    x_shape, weight_shape = (2, 3, *SPATIAL[ndim]), (1, 3, *(2,) * ndim)
    conv = conv_geometry(x_shape, weight_shape, stride=2, padding=1, dilation=2, ndim=ndim)
    unfold = unfold_geometry(x_shape, 2, 2, 1, 2, ndim=ndim)
    assert (unfold.out_size, unfold.padding, unfold.stride) == (conv.out_size, conv.padding, conv.stride)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_deform_conv_groups_are_read_off_the_shapes(data_format):
    shapes = [(2, 8, 5, 6), (2, 4 * 18, 3, 4), (6, 4, 3, 3), (2, 4 * 9, 3, 4)]
    x, offset, weight, mask = shapes
    if data_format == "channels_last":
        x, offset, mask = last(x), last(offset), last(mask)
    geo, offset_groups = deform_conv_geometry(x, offset, weight, mask_shape=mask, data_format=data_format)
    assert (geo.groups, offset_groups) == (2, 4)
    assert geo == conv_geometry(x, weight, groups=2, data_format=data_format, ndim=2)


def test_every_spelling_of_the_same_arguments_is_the_same_geometry():
    spellings = [
        {"stride": 2, "padding": 1},
        {"stride": (2,), "padding": (1,)},
        {"stride": [2, 2], "padding": [1, 1]},
        {"stride": (np.int64(2), 2), "padding": np.int32(1)},
        {"stride": (2, 2), "padding": ((1, 1),)},
        {"stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1,), "groups": np.uint8(1)},
    ]
    geometries = {conv_geometry((1, 2, 7, 7), (3, 2, 3, 3), **options, ndim=2) for options in spellings}
    assert len(geometries) == 1
    (geo,) = geometries
    assert all(type(v) is int for v in (*geo.stride, *geo.padding[0], geo.groups))
    with pytest.raises(dataclasses.FrozenInstanceError):
        geo.batch = 2
    assert not hasattr(geo, "__dict__")


def test_empty_batch_is_fine():
    assert conv_geometry((0, 2, 7, 7), (3, 2, 3, 3), ndim=2).y_shape == (0, 3, 5, 5)
    assert conv_transpose_geometry((0, 2, 7), (2, 3, 3), ndim=1).x_shape == (0, 3, 9)
    assert pool_geometry((0, 2, 7), 2, ndim=1).y_shape == (0, 2, 3)


def test_values_that_cannot_matter_are_tamed():
    """A stride beyond the padded input, or the dilation of one tap, would only make a kernel's products overflow."""
    huge = 2**62
    geo = conv_geometry((1, 1, 5), (1, 1, 1), stride=huge, dilation=huge, ndim=1)
    assert (geo.out_size, geo.stride, geo.dilation) == ((1,), (5,), (1,))
    assert isinstance(geo, ConvGeometry)
    pool = pool_geometry((1, 1, 5), 7, huge, ceil_mode=True, ndim=1)
    assert (pool.out_size, pool.stride) == ((1,), (7,))
    transposed = conv_transpose_geometry((1, 1, 1), (1, 1, 2), stride=huge, output_padding=3, ndim=1)
    assert (transposed.in_size, transposed.out_size, transposed.stride) == ((5,), (1,), (5,))


def test_unbatched_inputs_are_told_apart():
    assert is_batched(4, 2)
    assert not is_batched(3, 2)


def test_padding_mode_limits_are_torchs():
    for mode, padding in itertools.product(("reflect", "replicate", "circular"), range(7)):
        x = torch.empty(1, 1, 4)

        def ours(padding=padding, mode=mode):
            geo = conv_geometry((1, 1, 4), (1, 1, 1), padding=padding, padding_mode=mode, ndim=1)
            return geo.y_shape

        agree(lambda x=x, padding=padding, mode=mode: F.pad(x, (padding, padding), mode=mode).shape, ours)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "expected"),
    [(3, 2, 0, 1, (24, 49)), ((3, 5), (2, 1), (4, 2), 1, (28, 100)), ((3, 5), (2, 1), (4, 2), (3, 1), (26, 100))],
)
def test_lecture_conv_sizes(kernel, stride, padding, dilation, expected):
    assert conv_output_size((50, 100), kernel, stride, padding, dilation) == expected


def test_lecture_pool_sizes():
    assert pool_output_size((50, 100), 3, 2) == (24, 49)
    assert pool_output_size((50, 100), (3, 2), (2, 1)) == (24, 99)
    assert pool_output_size(6, 3, 3, 1, ceil_mode=True) == 3


@pytest.mark.parametrize("size", [5, 6, 28])
def test_size_helpers_follow_the_formulas(size):
    for k, s, p in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2)):
        assert conv_output_size(size, k, s, p) == (size + 2 * p - k) // s + 1
        assert conv_output_size(conv_transpose_output_size(size, k + 2 * p, s, p), k + 2 * p, s, p) == size
        assert conv_transpose_output_size(size, k + 2 * p, s, p) == s * (size - 1) + k
    assert conv_transpose_output_size((size, 7), 4, 2, 1, 1) == (2 * size + 1, 15)
    assert conv_output_size((size,), 3, padding="same") == (size,)


def test_lecture_parameter_counts():
    assert parameter_count(3, 96, (11, 11)) == 34_944
    channels = (1, 32, 64, 128, 256)
    convs = sum(parameter_count(a, b, (7, 7)) for a, b in itertools.pairwise(channels))
    assert convs + parameter_count(4 * 4 * 256, 10) == 2_150_410


def test_parameter_count_is_torchs():
    for groups, bias in itertools.product((1, 2), (True, False)):
        layer = torch.nn.Conv3d(4, 6, (1, 2, 3), groups=groups, bias=bias)
        count = sum(p.numel() for p in layer.parameters())
        assert parameter_count(4, 6, (1, 2, 3), groups=groups, bias=bias) == count


def test_vgg16_has_138_million_parameters():
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convs = sum(parameter_count(a, b, (3, 3)) for a, b in itertools.pairwise(widths))
    dense = sum(parameter_count(a, b) for a, b in itertools.pairwise((512 * 7 * 7, 4096, 4096, 1000)))
    assert convs + dense == 138_357_544


def test_receptive_fields_of_known_networks():
    """The values of Araujo, Norris and Sim (2019), table 1: size, effective stride, effective padding."""
    conv, pool = (3, 1, 1, 1), (2, 2, 1)
    vgg16 = [conv, conv, pool] * 2 + [conv, conv, conv, pool] * 3
    assert receptive_field(vgg16) == (212, 32, -90)
    shrink = (3, 2, 1)
    alexnet = [(11, 4, 1), shrink, (5, 1, 1, 2), shrink, conv, conv, conv, shrink]
    assert receptive_field(alexnet) == (195, 32, -64)


def test_receptive_field_is_where_the_gradient_is():
    layers = [
        torch.nn.Conv2d(1, 1, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(1, 1, 3, padding="same"),
    ]
    field = receptive_field(layers)
    x = torch.zeros(1, 1, 60, 40, requires_grad=True)
    y = torch.nn.Sequential(*layers)(x)
    y[0, 0, 5, 4].backward()
    touched = torch.nonzero(x.grad[0, 0]).numpy()
    first = np.add(field.start, np.multiply(field.jump, (5, 4)))
    assert tuple(touched.min(0)) == tuple(first)
    assert tuple(touched.max(0)) == tuple(first + field.size - 1)


def test_receptive_field_of_nothing_and_of_layer_objects():
    assert receptive_field([]) == (1, 1, 0)
    assert receptive_field([SimpleNamespace(kernel_size=3, stride=None)]) == (3, 3, 0)
    assert receptive_field([(3, 1, 1), ((3, 5), 2, 1)]) == ((5, 7), (2, 2), (0, 0))


def test_public_names_exist():
    assert all(hasattr(geometry, name) for name in geometry.__all__)
