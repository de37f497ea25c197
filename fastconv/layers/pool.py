"""Pooling and its inverse, as layers.

x is (N, C, *L) or, with data_format="channels_last", (N, *L, C), and may lack the batch axis; y alike. A window
argument is an integer or one an axis; stride=None is the window.
"""

from __future__ import annotations

from typing import Any

from fastconv import functional as F
from fastconv.layers.base import Array, Layer, SpatialLayer


class _PoolNd(SpatialLayer):
    """A pool whose operator is called with the keyword arguments that `_set` has put down."""

    _options: dict[str, Any]

    def _set(self, *, data_format: str, **options: Any) -> None:
        self._options = options | {"data_format": data_format}
        self.data_format = data_format

    def extra_repr(self) -> str:
        hidden = {"data_format": "channels_first", "divisor_override": None, "count_include_pad": True}
        return ", ".join(f"{k}={v}" for k, v in self._options.items() if k not in hidden or v != hidden[k])


class MaxPoolNd(_PoolNd):
    """The largest value of every window; `MaxPool1d`, `MaxPool2d` and `MaxPool3d` are it with 1, 2 and 3 axes.

    y[n,c,o] = max over taps t of x[n,c,o * stride + t * dilation - padding]; a NaN wins.

    Parameters
    ----------
    kernel_size, stride, padding, dilation
        The window; stride is kernel_size by default, padding (at most kernel_size // 2) is never the largest.
    return_indices
        Whether forward returns (y, indices), what `MaxUnpoolNd` takes. Default False.
    ceil_mode
        Whether a last window may hang over the end. Default False.
    data_format
        "channels_first" (default) or "channels_last".
    """

    operator = "max_pool{}d"

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        data_format: str = "channels_first",
    ) -> None:
        stride = kernel_size if stride is None else stride
        self._set(kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode,
                  data_format=data_format)  # fmt: skip
        self.return_indices = return_indices

    def forward(self, x: Array) -> Any:
        if not (self.training or self.return_indices):
            return self.function(x, **self._options)
        y, indices = self.function(x, **self._options, return_indices=True)
        self.save(x, indices)
        return (y, indices) if self.return_indices else y

    def backward(self, grad_y: Array) -> Array:
        x, indices = self.restore()
        return self.function_backward(grad_y, x, indices, **self._options)


class MaxPool1d(MaxPoolNd, ndim=1):
    """Max pool of signals, x (N, C, L); arguments as for `MaxPoolNd`."""


class MaxPool2d(MaxPoolNd, ndim=2):
    """Max pool of images, x (N, C, H, W); arguments as for `MaxPoolNd`."""


class MaxPool3d(MaxPoolNd, ndim=3):
    """Max pool of volumes, x (N, C, D, H, W); arguments as for `MaxPoolNd`."""


class AdaptiveMaxPoolNd(MaxPoolNd):
    """The largest value of every one of output_size windows that cover x: floor(i L / o) .. ceil((i + 1) L / o).

    output_size is an integer or one an axis, None keeping an axis as it is; return_indices and data_format as for
    `MaxPoolNd`.
    """

    operator = "adaptive_max_pool{}d"

    def __init__(self, output_size: Any, return_indices: bool = False, *, data_format: str = "channels_first") -> None:
        self._set(output_size=output_size, data_format=data_format)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(AdaptiveMaxPoolNd, ndim=1):
    """Adaptive max pool of signals, x (N, C, L); arguments as for `AdaptiveMaxPoolNd`."""


class AdaptiveMaxPool2d(AdaptiveMaxPoolNd, ndim=2):
    """Adaptive max pool of images, x (N, C, H, W); arguments as for `AdaptiveMaxPoolNd`."""


class AdaptiveMaxPool3d(AdaptiveMaxPoolNd, ndim=3):
    """Adaptive max pool of volumes, x (N, C, D, H, W); arguments as for `AdaptiveMaxPoolNd`."""


class AvgPoolNd(_PoolNd):
    """The mean of every window; `AvgPool1d`, `AvgPool2d` and `AvgPool3d` are it with 1, 2 and 3 axes.

    Parameters
    ----------
    kernel_size, stride, padding
        The window; stride is kernel_size by default.
    ceil_mode
        Whether a last window may hang over the end. Default False.
    count_include_pad
        Whether the padding counts in the divisor. Default True.
    divisor_override
        What the sum is divided by instead of the number of elements. Default None.
    data_format
        "channels_first" (default) or "channels_last".
    """

    operator = "avg_pool{}d"

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        data_format: str = "channels_first",
    ) -> None:
        stride = kernel_size if stride is None else stride
        self._set(kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
                  count_include_pad=count_include_pad, divisor_override=divisor_override,
                  data_format=data_format)  # fmt: skip

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return self.function(x, **self._options)

    def backward(self, grad_y: Array) -> Array:
        (x_shape,) = self.restore()
        return self.function_backward(grad_y, x_shape, **self._options)


class AvgPool1d(AvgPoolNd, ndim=1):
    """Average pool of signals, x (N, C, L); arguments as for `AvgPoolNd`."""


class AvgPool2d(AvgPoolNd, ndim=2):
    """Average pool of images, x (N, C, H, W); arguments as for `AvgPoolNd`."""


class AvgPool3d(AvgPoolNd, ndim=3):
    """Average pool of volumes, x (N, C, D, H, W); arguments as for `AvgPoolNd`."""


class AdaptiveAvgPoolNd(AvgPoolNd):
    """The mean of every one of output_size windows that cover x: floor(i L / o) .. ceil((i + 1) L / o).

    output_size is an integer or one an axis, None keeping an axis as it is.
    """

    operator = "adaptive_avg_pool{}d"

    def __init__(self, output_size: Any, *, data_format: str = "channels_first") -> None:
        self._set(output_size=output_size, data_format=data_format)


class AdaptiveAvgPool1d(AdaptiveAvgPoolNd, ndim=1):
    """Adaptive average pool of signals, x (N, C, L); arguments as for `AdaptiveAvgPoolNd`."""


class AdaptiveAvgPool2d(AdaptiveAvgPoolNd, ndim=2):
    """Adaptive average pool of images, x (N, C, H, W); arguments as for `AdaptiveAvgPoolNd`."""


class AdaptiveAvgPool3d(AdaptiveAvgPoolNd, ndim=3):
    """Adaptive average pool of volumes, x (N, C, D, H, W); arguments as for `AdaptiveAvgPoolNd`."""


class LPPoolNd(_PoolNd):
    """The power mean of every window, y = (sum of x^p)^(1/p); `LPPool1d`, `LPPool2d` and `LPPool3d` are it.

    norm_type is p; kernel_size, stride, ceil_mode and data_format as for `AvgPoolNd`.
    """

    operator = "lp_pool{}d"

    def __init__(
        self,
        norm_type: float,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        data_format: str = "channels_first",
    ) -> None:
        stride = kernel_size if stride is None else stride
        self._set(norm_type=norm_type, kernel_size=kernel_size, stride=stride, ceil_mode=ceil_mode,
                  data_format=data_format)  # fmt: skip

    def forward(self, x: Array) -> Array:
        self.save(x)
        return self.function(x, **self._options)

    def backward(self, grad_y: Array) -> Array:
        (x,) = self.restore()
        return self.function_backward(grad_y, x, **self._options)


class LPPool1d(LPPoolNd, ndim=1):
    """Power-mean pool of signals, x (N, C, L); arguments as for `LPPoolNd`."""


class LPPool2d(LPPoolNd, ndim=2):
    """Power-mean pool of images, x (N, C, H, W); arguments as for `LPPoolNd`."""


class LPPool3d(LPPoolNd, ndim=3):
    """Power-mean pool of volumes, x (N, C, D, H, W); arguments as for `LPPoolNd`."""


class MaxUnpoolNd(_PoolNd):
    """Zeros, with the values of x put back where a max pool with return_indices found them.

    forward(x, indices, output_size=None): output_size is the size before that pool, where the default, the smallest,
    is not it. kernel_size, stride and padding are that pool's.
    """

    operator = "max_unpool{}d"

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, *, data_format: str = "channels_first"
    ) -> None:
        stride = kernel_size if stride is None else stride
        self._set(kernel_size=kernel_size, stride=stride, padding=padding, data_format=data_format)

    def forward(self, x: Array, indices: Array, output_size: Any = None) -> Array:
        self.save(indices, output_size)
        return self.function(x, indices, output_size=output_size, **self._options)

    def backward(self, grad_y: Array) -> Array:
        indices, output_size = self.restore()
        return self.function_backward(grad_y, indices, output_size=output_size, **self._options)


class MaxUnpool1d(MaxUnpoolNd, ndim=1):
    """Inverse of `MaxPool1d`, x and indices (N, C, L); arguments as for `MaxUnpoolNd`."""


class MaxUnpool2d(MaxUnpoolNd, ndim=2):
    """Inverse of `MaxPool2d`, x and indices (N, C, H, W); arguments as for `MaxUnpoolNd`."""


class MaxUnpool3d(MaxUnpoolNd, ndim=3):
    """Inverse of `MaxPool3d`, x and indices (N, C, D, H, W); arguments as for `MaxUnpoolNd`."""


class GlobalAvgPool(Layer):
    """The mean of every channel, x (N, C, *L) or (N, *L, C) -> y (N, C), for 1, 2 and 3 spatial axes."""

    def __init__(self, *, data_format: str = "channels_first") -> None:
        self.data_format = data_format

    def forward(self, x: Array) -> Array:
        self.save(x.shape)
        return F.global_avg_pool(x, data_format=self.data_format)

    def backward(self, grad_y: Array) -> Array:
        (x_shape,) = self.restore()
        return F.global_avg_pool_backward(grad_y, x_shape, data_format=self.data_format)


class GlobalMaxPool(Layer):
    """The largest value of every channel, x (N, C, *L) or (N, *L, C) -> y (N, C), for 1, 2 and 3 spatial axes."""

    def __init__(self, *, data_format: str = "channels_first") -> None:
        self.data_format = data_format

    def forward(self, x: Array) -> Array:
        if not self.training:
            return F.global_max_pool(x, data_format=self.data_format)
        y, indices = F.global_max_pool(x, return_indices=True, data_format=self.data_format)
        self.save(x, indices)
        return y

    def backward(self, grad_y: Array) -> Array:
        x, indices = self.restore()
        return F.global_max_pool_backward(grad_y, x, indices, data_format=self.data_format)
