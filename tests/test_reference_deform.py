"""The oracle's deformable convolution against one by scalars in PyTorch's float64."""

import itertools
from typing import Any

import numpy as np
import pytest
from against_torch import LAYOUTS, draw, to

from fastconv import reference

pytestmark = pytest.mark.isa_independent


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    """The sampling rule spelled out for one point."""
    height, width = plane.shape
    if y <= -1 or y >= height or x <= -1 or x >= width:
        return 0.0
    top, left = int(np.floor(y)), int(np.floor(x))
    value = 0.0
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value += share_y * share_x * plane[row, column]
    return value


def deform_by_scalars(
    x: np.ndarray, offset: np.ndarray, w: np.ndarray, b: np.ndarray, mask: np.ndarray | None,
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
) -> np.ndarray:  # fmt: skip
    n_out, in_group = w.shape[:2]
    taps = list(np.ndindex(*w.shape[2:]))
    offset_groups = offset.shape[1] // (2 * len(taps))
    y = np.zeros((x.shape[0], n_out, *offset.shape[2:]))
    for n, f, oy, ox in np.ndindex(*y.shape):
        y[n, f, oy, ox] = b[f]
        for c, (t, (ky, kx)) in itertools.product(range(in_group), enumerate(taps)):
            channel = f // (n_out * in_group // x.shape[1]) * in_group + c
            tap = channel // (x.shape[1] // offset_groups) * len(taps) + t
            at_y = oy * stride[0] - padding[0] + ky * dilation[0] + offset[n, 2 * tap, oy, ox]
            at_x = ox * stride[1] - padding[1] + kx * dilation[1] + offset[n, 2 * tap + 1, oy, ox]
            m = 1.0 if mask is None else mask[n, tap, oy, ox]
            y[n, f, oy, ox] += w[f, c, ky, kx] * m * bilinear(x[n, channel], at_y, at_x)
    return y


DEFORMATIONS = [
    {"groups": 1, "offset_groups": 1, "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)},
    {"groups": 2, "offset_groups": 1, "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    {"groups": 1, "offset_groups": 2, "stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)},
    {"groups": 4, "offset_groups": 2, "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)},
]


def deformation(case: dict[str, Any], masked: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and parameters; offsets reach out of the image, and stay off the kinks at whole numbers."""
    params = {name: case[name] for name in ("stride", "padding", "dilation")}
    x, w = draw(2, 4, 5, 6), draw(4, 4 // case["groups"], 2, 3)
    out = reference.conv2d(x, w, groups=case["groups"], **params).shape[2:]
    rng = np.random.default_rng(3)
    offset = rng.integers(-3, 4, (2, 12 * case["offset_groups"], *out)) + rng.uniform(0.1, 0.9)
    arrays = {"x": x, "offset": offset, "weight": w, "bias": draw(4)}
    if masked:
        arrays["mask"] = draw(2, 6 * case["offset_groups"], *out)
    return arrays, params


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("case", DEFORMATIONS, ids=str)
def test_deform_conv2d(layout: str, masked: bool, case: dict[str, Any]) -> None:
    arrays, params = deformation(case, masked)
    x, offset, w, b = (arrays[name] for name in ("x", "offset", "weight", "bias"))
    mask = arrays.get("mask")
    expected = deform_by_scalars(x, offset, w, b, mask, **params)
    last = {name: to(layout, a) if name in ("x", "offset", "mask") else a for name, a in arrays.items()}
    ours = reference.deform_conv2d(**last, **params, data_format=layout)
    np.testing.assert_allclose(ours, to(layout, expected), atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize("case", DEFORMATIONS, ids=str)
def test_deform_conv2d_backward(layout: str, masked: bool, case: dict[str, Any]) -> None:
    arrays, params = deformation(case, masked)
    y = reference.deform_conv2d(**arrays, **params)
    grad_y = draw(*y.shape, seed=8)
    last = {name: to(layout, a) if name in ("x", "offset", "mask") else a for name, a in arrays.items()}
    del last["bias"]
    ours = reference.deform_conv2d_backward(to(layout, grad_y), **last, **params, data_format=layout)
    assert (ours[4] is None) != masked
    step = 1e-6
    for name, grad in zip(("x", "offset", "weight", "bias", "mask"), ours, strict=True):
        if grad is None:
            continue
        # Along one random direction per array, a central difference is exact up to rounding and third derivatives.
        way = draw(*arrays[name].shape, seed=21)
        up, down = ({**arrays, name: arrays[name] + sign * step * way} for sign in (1, -1))
        rise = reference.deform_conv2d(**up, **params) - reference.deform_conv2d(**down, **params)
        given = to(layout, way) if name in ("x", "offset", "mask") else way
        np.testing.assert_allclose((grad * given).sum(), (grad_y * rise).sum() / (2 * step), rtol=1e-6, err_msg=name)


def test_deform_conv2d_offset_gradients_one_by_one() -> None:
    arrays, params = deformation(DEFORMATIONS[3], True)
    y = reference.deform_conv2d(**arrays, **params)
    grad_y = draw(*y.shape, seed=8)
    grads = reference.deform_conv2d_backward(
        grad_y, arrays["x"], arrays["offset"], arrays["weight"], mask=arrays["mask"], **params
    )
    for name, grad in (("offset", grads[1]), ("mask", grads[4]), ("x", grads[0])):
        for at in np.random.default_rng(0).choice(grad.size, 40, replace=False):
            rise = 0
            for sign in (1, -1):
                moved = arrays[name].copy()
                moved.flat[at] += sign * 1e-5
                rise += sign * reference.deform_conv2d(**{**arrays, name: moved}, **params)
            np.testing.assert_allclose(grad.flat[at], (grad_y * rise).sum() / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", DEFORMATIONS, ids=str)
def test_deform_conv2d_without_deformation_is_conv2d(case: dict[str, Any]) -> None:
    arrays, params = deformation(case, True)
    arrays["offset"][:], arrays["mask"][:] = 0, 1
    x, w, b = arrays["x"], arrays["weight"], arrays["bias"]
    y = reference.conv2d(x, w, b, groups=case["groups"], **params)
    np.testing.assert_allclose(reference.deform_conv2d(**arrays, **params), y, atol=1e-12)
    grad_y = draw(*y.shape)
    ours = reference.deform_conv2d_backward(grad_y, x, arrays["offset"], w, mask=arrays["mask"], **params)
    plain = reference.conv2d_backward(grad_y, x, w, groups=case["groups"], **params)
    for mine, theirs in zip((ours[0], ours[2], ours[3]), plain, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    only = reference.deform_conv2d_backward(
        grad_y, x, arrays["offset"], w, mask=arrays["mask"], **params, need=(False, True, False, False, False)
    )
    assert [g is None for g in only] == [True, False, True, True, True]
    np.testing.assert_array_equal(only[1], ours[1])


def test_deform_conv2d_at_the_border() -> None:
    """On y = -1 the value is 0 and the slope is that towards the image; far away, infinite or NaN give 0."""
    x, w = np.arange(1.0, 5.0).reshape(1, 1, 2, 2), np.ones((1, 1, 1, 1))
    for dy, value, slope in (
        (-1, 0, 1),
        (-2, 0, 0),
        (2, 0, 0),
        (1, 3, -3),
        (1e30, 0, 0),
        (-np.inf, 0, 0),
        (np.nan, 0, 0),
    ):
        offset = np.zeros((1, 2, 2, 2))
        offset[0, 0, 0, 0] = dy
        y = reference.deform_conv2d(x, offset, w)
        grad_y = np.zeros_like(y)
        grad_y[0, 0, 0, 0] = 1
        _, grad_offset, *_ = reference.deform_conv2d_backward(grad_y, x, offset, w)
        assert (y[0, 0, 0, 0], grad_offset[0, 0, 0, 0]) == (value, slope), dy
