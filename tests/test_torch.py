"""PyTorch as a second oracle: a broad grid of geometries, drawn once and for all, forward and backward."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, LAYOUTS, Conv, ConvTranspose, laid_out, values
from conftest import ISAS, using_isa
from tolerance import assert_within, bound

import fastconv.functional as ff

GEOMETRIES = 100  # of each operator and rank
SIZES = {1: 40, 2: 13, 3: 7}
KERNELS = {1: (1, 2, 3, 4, 5, 9), 2: (1, 2, 3, 3, 4, 5), 3: (1, 2, 3)}
TORCH_PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def drawn(kind, ndim):
    """Geometries of a rank that PyTorch accepts."""
    rng, geometries = random.Random(f"{kind.__name__}{ndim}"), []
    while len(geometries) < GEOMETRIES:
        case = draw_conv(rng, ndim) if kind is Conv else draw_conv_transpose(rng, ndim)
        try:
            case.geometry  # noqa: B018
        except ValueError:
            continue
        geometries.append(case)
    return geometries


def numbers(rng, choices, ndim):
    """A tuple, or now and then one number for all axes."""
    return rng.choice(choices) if rng.random() < 0.3 else tuple(rng.choice(choices) for _ in range(ndim))


def shapes(rng, ndim):
    """(N, *size), channels a group on either side, groups, kernel."""
    size = tuple(rng.randint(1, SIZES[ndim]) for _ in range(ndim))
    groups = rng.choice((1, 1, 1, 2, 3))
    kernel = tuple(rng.choice(KERNELS[ndim]) for _ in range(ndim))
    return rng.choice((1, 1, 2, 3)), size, rng.choice((1, 2, 3, 8, 9, 17)), rng.choice((1, 2, 5, 7, 16)), groups, kernel


def draw_conv(rng, ndim):
    batch, size, c_in, c_out, groups, kernel = shapes(rng, ndim)
    return Conv(
        (batch, c_in * groups, *size),
        (c_out * groups, c_in, *kernel),
        stride=numbers(rng, (1, 1, 2, 3, 7), ndim),
        padding=rng.choice(("valid", numbers(rng, (0, 1, 2, 4), ndim), numbers(rng, (0, 1, 2, 4), ndim))),
        dilation=numbers(rng, (1, 1, 2, 3), ndim),
        groups=groups,
        padding_mode=rng.choice(("zeros", "zeros", "reflect", "replicate", "circular")),
    )


def draw_conv_transpose(rng, ndim):
    batch, size, c_in, c_out, groups, kernel = shapes(rng, ndim)
    stride, dilation = (tuple(rng.choice((1, 1, 2, 3)) for _ in range(ndim)) for _ in range(2))
    return ConvTranspose(
        (batch, c_in * groups, *size),
        (c_in * groups, c_out, *kernel),
        stride=stride,
        padding=numbers(rng, (0, 1, 2, 4), ndim),
        output_padding=tuple(rng.randrange(max(pair)) for pair in zip(stride, dilation, strict=True)),
        groups=groups,
        dilation=dilation,
    )


def torch_conv(case, x, weight, bias):
    """PyTorch pads with zeros on its own, and otherwise as nn.Conv2d does: beforehand."""
    options = case.options
    mode = options.pop("padding_mode")
    if mode != "zeros":
        pairs = [p for pair in reversed(case.geometry.padding) for p in pair]
        x = F.pad(x, pairs, TORCH_PADDING[mode])
        options["padding"] = 0
    return getattr(F, f"conv{case.ndim}d")(x, weight, bias, **options)


def torch_conv_transpose(case, x, weight, bias):
    return getattr(F, f"conv_transpose{case.ndim}d")(x, weight, bias, **case.options)


OPERATORS = {
    f"{name}{ndim}d": (torch_operator, drawn(kind, ndim))
    for name, kind, torch_operator in (
        ("conv", Conv, torch_conv),
        ("conv_transpose", ConvTranspose, torch_conv_transpose),
    )
    for ndim in (1, 2, 3)
}


@pytest.mark.every_isa
@pytest.mark.parametrize(("operator", "index"), [(operator, i) for operator in OPERATORS for i in range(GEOMETRIES)])
def test_forward_and_backward(operator, index):
    torch_operator, geometries = OPERATORS[operator]
    case, dtype, layout = geometries[index], DTYPES[index % 2], LAYOUTS[index // 2 % 2]
    x, weight, bias, grad_y = (
        values(shape, seed) for seed, shape in enumerate((case.x, case.weight, (case.channels,), case.y))
    )
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    y = torch_operator(case, *leaves)
    y.backward(torch.tensor(grad_y))

    expected = [y, *(leaf.grad for leaf in leaves)]
    expected[:2] = (laid_out(a.detach().numpy(), layout, "float64") for a in expected[:2])
    # No output and no gradient sums more products than these, whatever the padding repeats.
    terms = max(np.prod(case.weight), np.prod(case.x), np.prod(case.y))
    limit = bound(dtype, terms, x, weight)
    ours = [laid_out(x, layout, dtype), weight.astype(dtype)]
    options = {"data_format": layout, **case.options}
    for isa in ISAS:  # all of them by one call of PyTorch, which takes longer
        with using_isa(isa):
            result = getattr(ff, operator)(*ours, bias.astype(dtype), **options)
            gradients = getattr(ff, operator + "_backward")(laid_out(grad_y, layout, dtype), *ours, **options)
        for actual, exact in zip((result, *gradients), expected, strict=True):
            assert_within(actual, np.asarray(exact), limit, dtype)
