"""The geometry of a convolution and of a transposed one: every shape error is raised here."""

from dataclasses import dataclass
from math import prod

from fastconv.geometry.arguments import (
    IntOrTuple,
    Padding,
    Pairs,
    Size,
    as_int,
    as_padding,
    as_shape,
    as_tuple,
    check_bytes,
    check_int64,
    check_padding_mode,
    is_channels_last,
)
from fastconv.geometry.sizes import as_output_padding, padded_size, transposed_sizes, window_counts, window_reach

_SPATIAL = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """A convolution in normal form: plain integers, tuples of length `ndim`, valid by construction.

    Output position o of tap t reads the input at o * stride + t * dilation - before along each axis; a position
    outside 0 .. in_size - 1 is padding. Two calls of the same geometry do the same work, so plans are keyed by it.
    """

    ndim: int
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    in_size: Size
    kernel: Size
    stride: Size
    padding: Pairs
    dilation: Size
    out_size: Size
    channels_last: bool

    @property
    def x_shape(self) -> Size:
        """Shape of the batched input in its layout."""
        return activation_shape(self.batch, self.in_channels, self.in_size, self.channels_last)

    @property
    def y_shape(self) -> Size:
        """Shape of the batched output in its layout."""
        return activation_shape(self.batch, self.out_channels, self.out_size, self.channels_last)

    @property
    def weight_shape(self) -> Size:
        """Shape of the weight, (C_out, C_in / groups, *kernel) in either layout."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)


def conv_geometry(
    x_shape: Size,
    weight_shape: Size,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    bias_shape: Size | None = None,
    ndim: int,
) -> ConvGeometry:
    """The geometry of y = conv(x, weight): out = floor((in + before + after - dilation (K - 1) - 1) / stride) + 1.

    Parameters
    ----------
    x_shape: batched input shape, (N, C_in, *size) or (N, *size, C_in)
    weight_shape: (C_out, C_in / groups, *kernel) in either layout
    stride, dilation: int or tuple of `ndim` ints >= 1, default 1
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0
    groups: int that divides C_in and C_out, default 1
    padding_mode: "zeros" (default), "reflect" (padding < size), "replicate" or "circular" (padding <= size)
    data_format: "channels_first" (default) or "channels_last"
    bias_shape: (C_out,), or None without a bias
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.
    """
    channels_last = is_channels_last(data_format)
    batch, in_channels, in_size = split_activation(x_shape, "x.shape", ndim, channels_last)
    weight = _as_weight(weight_shape, ndim, "(C_out, C_in / groups, {})")
    out_channels, kernel = weight[0], weight[2:]
    strides, dilations = as_tuple(stride, ndim, "stride", 1), as_tuple(dilation, ndim, "dilation", 1)
    groups = _check_groups(groups, in_channels, out_channels)
    if weight[1] * groups != in_channels:
        raise ValueError(
            f"weight.shape[1] must be C_in / groups = {in_channels // groups} for x with {in_channels} channels and "
            f"groups={groups}, got weight.shape={weight}"
        )
    check_bias(bias_shape, out_channels)
    pairs = as_padding(padding, kernel, strides, dilations)
    out_size = window_counts(in_size, kernel, strides, pairs, dilations, "weight.shape[2:]")
    check_padding_mode(padding_mode, pairs, in_size)
    check_bytes((batch, out_channels, *out_size), **{"x.shape": x_shape}, padding=pairs)
    strides, dilations = tame(in_size, kernel, strides, pairs, dilations)
    return ConvGeometry(
        ndim=ndim,
        batch=batch,
        in_channels=in_channels,
        out_channels=out_channels,
        groups=groups,
        in_size=in_size,
        kernel=kernel,
        stride=strides,
        padding=pairs,
        dilation=dilations,
        out_size=out_size,
        channels_last=channels_last,
    )


def conv_transpose_geometry(
    x_shape: Size,
    weight_shape: Size,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    groups: int = 1,
    dilation: IntOrTuple = 1,
    data_format: str = "channels_first",
    bias_shape: Size | None = None,
    ndim: int,
) -> ConvGeometry:
    """The geometry of the forward convolution whose backward_input is y = conv_transpose(x, weight).

    Everything is seen from that convolution: `in_size` and `in_channels` are those of y, `out_size` and `out_channels`
    those of x, and `weight_shape` is the transposed convolution's own, (C_in, C_out / groups, *kernel). So
    y = backward_input(x), grad_x = forward(grad_y), and the weight gradients agree with x and y changing places.

    y's size is stride (in - 1) + dilation (K - 1) + 1 - before - after + output_padding. An output padding of `stride`
    or more (legal below the dilation) leaves room for further windows, so `out_size` is to be read, never recomputed.
    `padding` may be larger than the kernel as long as y's size is >= 1.

    Parameters
    ----------
    x_shape: batched input shape of the transposed convolution, (N, C_in, *size) or (N, *size, C_in)
    weight_shape: (C_in, C_out / groups, *kernel) in either layout
    stride, dilation: int or tuple of `ndim` ints >= 1, default 1
    padding: int, tuple, pairs ((before, after), ...), "same" or "valid", default 0: positions cut from y
    output_padding: int or tuple of `ndim` ints < max(stride, dilation), default 0: positions added at the end of y
    groups: int that divides C_in and C_out, default 1
    data_format: "channels_first" (default) or "channels_last"
    bias_shape: (C_out,), or None without a bias
    ndim: number of spatial axes, 1 to 3

    Raises: TypeError and ValueError that name the argument, its value and what was expected.

    Source: Dumoulin and Visin (2016), section 4.
    """
    channels_last = is_channels_last(data_format)
    batch, x_channels, x_size = split_activation(x_shape, "x.shape", ndim, channels_last)
    weight = _as_weight(weight_shape, ndim, "(C_in, C_out / groups, {})")
    kernel = weight[2:]
    strides, dilations = as_tuple(stride, ndim, "stride", 1), as_tuple(dilation, ndim, "dilation", 1)
    if weight[0] != x_channels:
        raise ValueError(f"weight.shape[0] must be C_in = {x_channels}, as x has, got weight.shape={weight}")
    groups = as_int(groups, "groups", 1)
    y_channels = check_int64(weight[1] * groups, "groups", groups)
    _check_groups(groups, x_channels, y_channels)
    check_bias(bias_shape, y_channels)
    extra = as_output_padding(output_padding, strides, dilations)
    pairs = as_padding(padding, kernel, strides, dilations)
    y_size = transposed_sizes(x_size, kernel, strides, pairs, extra, dilations)
    check_bytes((batch, y_channels, *y_size), **{"x.shape": x_shape}, stride=strides, dilation=dilations)
    strides, dilations = tame(y_size, kernel, strides, pairs, dilations)
    return ConvGeometry(
        ndim=ndim,
        batch=batch,
        in_channels=y_channels,
        out_channels=x_channels,
        groups=groups,
        in_size=y_size,
        kernel=kernel,
        stride=strides,
        padding=pairs,
        dilation=dilations,
        out_size=x_size,
        channels_last=channels_last,
    )


def deform_conv_geometry(
    x_shape: Size,
    offset_shape: Size,
    weight_shape: Size,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    mask_shape: Size | None = None,
    data_format: str = "channels_first",
    bias_shape: Size | None = None,
    ndim: int = 2,
) -> tuple[ConvGeometry, int]:
    """The geometry of a deformable convolution and its number of offset groups.

    Both group counts are read off the shapes: groups = C_in / weight.shape[1], and the offsets' channels are
    offset_groups * taps * ndim.

    Parameters
    ----------
    x_shape: batched input shape, (N, C_in, *size) or (N, *size, C_in)
    offset_shape: (N, offset_groups * taps * ndim, *out_size), or channels last as x; offset_groups divides C_in
    weight_shape: (C_out, C_in / groups, *kernel) in either layout
    stride, padding, dilation, data_format, bias_shape, ndim: as for `conv_geometry`
    mask_shape: (N, offset_groups * taps, *out_size), or channels last as x; None without a mask

    Raises: TypeError and ValueError that name the argument, its value and what was expected.

    Source: Dai et al., "Deformable convolutional networks" (2017); Zhu et al., "Deformable ConvNets v2" (2019).
    """
    channels_last = is_channels_last(data_format)
    _, in_channels, _ = split_activation(x_shape, "x.shape", ndim, channels_last)
    channels_a_group = _as_weight(weight_shape, ndim, "(C_out, C_in / groups, {})")[1]
    if in_channels % channels_a_group:
        raise ValueError(
            f"weight.shape[1] must divide the {in_channels} channels of x, got weight.shape={tuple(weight_shape)}"
        )
    geometry = conv_geometry(
        x_shape,
        weight_shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=in_channels // channels_a_group,
        data_format=data_format,
        bias_shape=bias_shape,
        ndim=ndim,
    )
    return geometry, _offset_groups(geometry, offset_shape, mask_shape)


def is_batched(x_ndim: int, ndim: int, name: str = "x") -> bool:
    """Whether an array of `x_ndim` dimensions has a batch axis before its channels and `ndim` spatial axes.

    Raises: ValueError unless x_ndim is ndim + 1 (unbatched) or ndim + 2 (batched).
    """
    if x_ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"{name} must have {ndim + 2} dimensions, or {ndim + 1} without a batch, got {name}.ndim={x_ndim}"
        )
    return x_ndim == ndim + 2


def activation_shape(batch: int, channels: int, size: Size, channels_last: bool) -> Size:
    """The shape of a batched activation array in its layout."""
    return (batch, *size, channels) if channels_last else (batch, channels, *size)


def split_activation(shape: Size, name: str, ndim: int, channels_last: bool) -> tuple[int, int, Size]:
    """(batch, channels, spatial size) of a batched activation shape.

    Raises: ValueError for a wrong number of dimensions, no channels or a spatial size of 0; an empty batch is fine.
    """
    axes = ", ".join(_SPATIAL[ndim])
    layout = f"(N, {axes}, C)" if channels_last else f"(N, C, {axes})"
    sizes = as_shape(shape, ndim + 2, name, layout)
    if 0 in sizes[1:]:
        raise ValueError(f"{name} must have no zero size but the batch's in {layout}, got {name}={sizes}")
    check_bytes(sizes, **{name: sizes})
    return (sizes[0], sizes[-1], sizes[1:-1]) if channels_last else (sizes[0], sizes[1], sizes[2:])


def check_bias(bias_shape: Size | None, channels: int) -> None:
    """Raise unless there is no bias or its shape is (channels,)."""
    if bias_shape is not None and tuple(bias_shape) != (channels,):
        raise ValueError(f"bias.shape must be ({channels},), one value an output channel, got bias.shape={bias_shape}")


def tame(in_size: Size, kernel: Size, stride: Size, padding: Pairs, dilation: Size) -> tuple[Size, Size]:
    """(stride, dilation) without values that are huge and do not matter, so that kernels can multiply them freely.

    A stride beyond the whole padded input allows one window whatever it is, and one tap has no dilation.
    """
    dilation = tuple(1 if k == 1 else d for k, d in zip(kernel, dilation, strict=True))
    limits = map(max, padded_size(in_size, padding), window_reach(kernel, dilation))
    return tuple(min(s, limit) for s, limit in zip(stride, limits, strict=True)), dilation


def _offset_groups(geometry: ConvGeometry, offset_shape: Size, mask_shape: Size | None) -> int:
    taps, channels_last = prod(geometry.kernel), geometry.channels_last
    sizes = as_shape(offset_shape, geometry.ndim + 2, "offset.shape", f"as x.shape={geometry.x_shape}")
    axis = geometry.ndim + 1 if channels_last else 1
    groups, rest = divmod(sizes[axis], taps * geometry.ndim)
    if rest or groups == 0 or geometry.in_channels % groups:
        raise ValueError(
            f"offset.shape[{axis}] must be {taps * geometry.ndim} times a divisor of the "
            f"{geometry.in_channels} channels of x, got offset.shape={sizes}"
        )
    expected = activation_shape(geometry.batch, groups * taps * geometry.ndim, geometry.out_size, channels_last)
    if sizes != expected:
        raise ValueError(f"offset.shape must be {expected}, got offset.shape={sizes}")
    expected = activation_shape(geometry.batch, groups * taps, geometry.out_size, channels_last)
    if mask_shape is not None and tuple(mask_shape) != expected:
        raise ValueError(f"mask.shape must be {expected}, one value a tap, got mask.shape={tuple(mask_shape)}")
    return groups


def _as_weight(shape: Size, ndim: int, layout: str) -> Size:
    axes = ", ".join("K" + axis for axis in _SPATIAL[ndim])
    weight = as_shape(shape, ndim + 2, "weight.shape", layout.format(axes))
    if 0 in weight:
        raise ValueError(f"weight.shape must have no zero size, got weight.shape={weight}")
    check_bytes(weight, **{"weight.shape": weight})
    return weight


def _check_groups(groups: int, in_channels: int, out_channels: int) -> int:
    groups = as_int(groups, "groups", 1)
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups must divide the {in_channels} input and {out_channels} output channels, got groups={groups}"
        )
    return groups
