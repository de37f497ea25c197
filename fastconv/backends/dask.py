"""Convolution of Dask arrays: images and volumes larger than memory, a chunk at a time.

    import dask.array as da
    from fastconv.backends.dask import conv2d

    y = conv2d(x, weight, padding=1)  # lazy; x may be chunked along the batch and every spatial axis

`dask.array.map_overlap` gives each block of x the rows and columns of its neighbours that its windows reach, and
fastconv convolves it; the ends of the whole image alone are padded. What a block has to read and what it yields is
settled beforehand for every axis by itself (`_axis_cut`), for any stride and chunk sizes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastconv import functional
from fastconv.extras import require
from fastconv.functional._convolution import batched_shape, check_operands, documented, epilogue
from fastconv.geometry import ConvGeometry, as_bool, conv_geometry
from fastconv.geometry.arguments import IntOrTuple, Padding
from fastconv.geometry.sizes import window_reach
from fastconv.runtime import available_cpus, get_num_threads, resolve_algorithm

__all__ = ["conv1d", "conv2d", "conv3d"]

Array = NDArray[Any]
Chunks = tuple[int, ...]


class _Piece(NamedTuple):
    """What one block, with what it has of its neighbours, needs along an axis to yield its outputs."""

    start: int
    stop: int | None
    padding: tuple[int, int]


class _Cut(NamedTuple):
    """An axis: chunks of x, what blocks need of the chunks before and after theirs, and chunks of y."""

    chunks: Chunks
    depth: tuple[int, int]
    counts: Chunks
    pieces: tuple[_Piece, ...]


def _axis_cut(
    chunks: Chunks, reach: int, stride: int, padding: tuple[int, int], out_size: int, lead: int, mirrored: int
) -> _Cut:
    """Share the windows of an axis among its chunks.

    The first window begins padding[0] before x, and each reaches so many positions. It belongs to the chunk in which
    its position `lead` lies: with the padding as lead, y has a chunk of x's size, or of that over the stride, for each
    of x's. Chunks are joined that might have no window, less than a neighbour's windows reach into them, or less than
    so many elements to be `mirrored`.
    """
    before, after = padding
    chunks = _joined(chunks, max(reach - 1, mirrored) + stride)
    bounds = (0, *accumulate(chunks))
    first = (0, *(-(-(bound - lead + before) // stride) for bound in bounds[1:-1]), out_size)
    ends = [(one - 1) * stride - before + reach for one in first[1:-1]]  # of what all blocks but the last read
    trail = max((end - bound for end, bound in zip(ends, bounds[1:], strict=False)), default=0)
    pieces = []
    for block in range(len(chunks)):
        is_first, is_last = block == 0, block == len(chunks) - 1
        origin = 0 if is_first else bounds[block] - lead
        start = 0 if is_first else first[block] * stride - before - origin
        stop = None if is_last else ends[block] - origin
        pieces.append(_Piece(start, stop, (before if is_first else 0, after if is_last else 0)))
    counts = tuple(b - a for a, b in pairwise(first))
    depth = (lead, max(trail, 0)) if len(chunks) > 1 else (0, 0)
    return _Cut(chunks, depth, counts, tuple(pieces))


def _joined(chunks: Chunks, least: int) -> Chunks:
    """The chunks, neighbours joined until each has at least so many elements, or one chunk is left."""
    joined, size = [], 0
    for chunk in chunks:
        size += chunk
        if size >= least:
            joined.append(size)
            size = 0
    if size and joined:
        joined[-1] += size
    return tuple(joined) or (size,)


class _Chunk(np.ndarray):
    """An array whose parts are copies: a view of one end, kept for the neighbour, would keep the whole chunk."""

    def __getitem__(self, index: Any) -> Any:
        return np.array(super().__getitem__(index))


def _with_copied_ends(block: Array) -> Array:
    return np.asarray(block).view(_Chunk)


class _Turns:
    """Lets blocks be convolved side by side as long as there is a CPU for each thread of their teams."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until so many threads as an operator may use are free, or all are."""
        threads, cpus = get_num_threads(), available_cpus()
        with self._changed:
            self._changed.wait_for(lambda: self._threads == 0 or self._threads + threads <= cpus)
            self._threads += threads
        try:
            yield
        finally:
            with self._changed:
                self._threads -= threads
                self._changed.notify_all()


_turns = _Turns()
if hasattr(os, "register_at_fork"):  # threads that hold a turn are not in the child
    os.register_at_fork(after_in_child=_turns.__init__)  # type: ignore[misc]


def _convolve(
    block: Array, *, weight: Array, bias: Array | None, pieces: dict[int, tuple[_Piece, ...]], options: dict[str, Any],
    block_id: tuple[int, ...],
) -> Array:  # fmt: skip
    """One block of y from a block of x and what it has of its neighbours."""
    mine = {axis: of_blocks[block_id[axis]] for axis, of_blocks in pieces.items()}
    block, whole = np.asarray(block), [slice(None)] * block.ndim
    for axis, piece in mine.items():
        whole[axis] = slice(piece.start, piece.stop)
    operator = getattr(functional, f"conv{len(pieces)}d")
    padding = tuple(piece.padding for piece in mine.values())
    with _turns.turn():
        y: Array = operator(block[tuple(whole)], weight, bias, padding=padding, **options)
    return y


def _conv(
    ndim: int, x: Any, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, groups: Any,
    padding_mode: str, data_format: str, activation: str | None, flip_kernel: bool, algorithm: str | None,
) -> Any:  # fmt: skip
    da = require("dask.array", extra="dask")
    _check_dask(x, da)
    stand_in = np.broadcast_to(np.empty((), x.dtype), x.shape)
    check_operands(ndim, stand_in, weight, bias)
    geometry = conv_geometry(
        batched_shape(stand_in, ndim), weight.shape, stride=stride, padding=padding, dilation=dilation, groups=groups,
        padding_mode=padding_mode, data_format=data_format, bias_shape=None if bias is None else bias.shape, ndim=ndim,
    )  # fmt: skip
    epilogue(activation)
    options = {
        "stride": geometry.stride, "dilation": geometry.dilation, "groups": geometry.groups,
        "padding_mode": padding_mode, "data_format": data_format, "activation": activation,
        "flip_kernel": as_bool(flip_kernel, "flip_kernel"), "algorithm": resolve_algorithm(algorithm),
    }  # fmt: skip
    return _map(x, geometry, weight.copy(), None if bias is None else bias.copy(), options, da)


def _map(x: Any, geometry: ConvGeometry, weight: Array, bias: Array | None, options: dict[str, Any], da: Any) -> Any:
    """y, lazy, once all arguments are known to fit."""
    last, mode = x.ndim - geometry.channels_last, options["padding_mode"]
    axes = range(last - geometry.ndim, last)
    channels = last if geometry.channels_last else axes.start - 1
    reaches, cuts = window_reach(geometry.kernel, geometry.dilation), {}
    windows = zip(axes, reaches, geometry.stride, geometry.padding, geometry.out_size, strict=True)
    for axis, reach, stride, padding, out_size in windows:
        lead, mirrored = min(padding[0], reach - 1), max(padding) if mode == "reflect" else 0
        if mode == "circular":
            x, padding = _wrapped(x, axis, padding, da), (0, 0)
        cuts[axis] = _axis_cut(x.chunks[axis], reach, stride, padding, out_size, lead, mirrored)
    x = x.rechunk({channels: -1} | {axis: cut.chunks for axis, cut in cuts.items()})
    chunks = list(x.chunks)
    chunks[channels] = (geometry.out_channels,)
    for axis, cut in cuts.items():
        chunks[axis] = cut.counts
    return da.map_overlap(
        _convolve, x.map_blocks(_with_copied_ends, dtype=x.dtype, meta=x._meta), boundary="none", trim=False,
        depth={axis: cut.depth for axis, cut in cuts.items()}, allow_rechunk=False, chunks=tuple(chunks),
        dtype=x.dtype, meta=np.empty((0,) * x.ndim, x.dtype), weight=weight, bias=bias,
        pieces={axis: cut.pieces for axis, cut in cuts.items()}, options=options,
    )  # fmt: skip


def _check_dask(x: Any, da: Any) -> None:
    """Raise unless x is a Dask array whose shape is known."""
    if not isinstance(x, da.Array):
        raise TypeError(f"x must be a Dask array, got {type(x).__name__}; make one with dask.array.from_array(x)")
    if any(np.isnan(size) for size in x.shape):
        raise ValueError(f"x must have a known shape, got x.shape={x.shape}; find it with x.compute_chunk_sizes()")


def _wrapped(x: Any, axis: int, pair: tuple[int, int], da: Any) -> Any:
    """x with so many elements of each end before the other one; both stay in the chunks that they lie next to."""
    before, after = pair
    size, chunks = x.shape[axis], x.chunks[axis]
    index = [slice(None)] * x.ndim
    ends = []
    for end in (slice(size - before, size), slice(0, after)):
        index[axis] = end
        ends.append(x[tuple(index)])
    joined = da.concatenate([ends[0], x, ends[1]], axis=axis)
    sizes = (before + chunks[0], *chunks[1:])
    return joined.rechunk({axis: (*sizes[:-1], sizes[-1] + after)})


_FORWARD = """{ndim}-D convolution of a Dask array, `fastconv.conv{ndim}d` a chunk at a time.

    Nothing is computed before the result is. It is that of `fastconv.conv{ndim}d` on the whole array, to rounding: the
    order of a sum's products may depend on the shape of a block.

    Along spatial axes chunks may have any sizes; those shorter than a window and its stride are joined. Channels
    become one chunk, in x and in y. Each block of y needs its chunk of x and the ends of the neighbouring ones, so that
    Dask holds some three rows of chunks at a time: of chunks as wide as the image five or six.

    Blocks are convolved one after the other, each by a team of `fastconv.get_num_threads()` threads, which is as many
    as CPUs by default, while Dask's other threads read and write. With fewer threads an operator, as many blocks run
    side by side as the CPUs have room for: `fastconv.set_num_threads(1)` or OMP_NUM_THREADS=1 suits many small chunks,
    and processes of Dask's that share a machine.

    Parameters
    ----------
    x : Dask array (N, C_in, {size}) or (N, {size}, C_in), float32 or float64; N may be left out
    weight : array (C_out, C_in / groups, {kernel}) in either layout, dtype of x
    bias : array (C_out,), dtype of x, default None
    stride, padding, dilation, groups, padding_mode, data_format, activation, flip_kernel
        As in `fastconv.conv{ndim}d`; all of them may be used together.
    algorithm : "auto", "direct", "depthwise", "grouped" or "winograd", default None: the policy of `fastconv.algorithm`
        where this function is called

    Returns
    -------
    Dask array (N, C_out, {out}) or (N, {out}, C_out)
        Chunked as x, each window in the chunk that it lies in.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    TypeError
        x is no Dask array, an array is not float32 or float64, dtypes differ, or a number is not an integer.
    ValueError
        Shapes or parameters do not fit each other, the shape of x is unknown, or a name is.
    """


@documented(_FORWARD, 1)
def conv1d(
    x: Any,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> Any:
    return _conv(1, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, activation,
                 flip_kernel, algorithm)  # fmt: skip


@documented(_FORWARD, 2)
def conv2d(
    x: Any,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> Any:
    return _conv(2, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, activation,
                 flip_kernel, algorithm)  # fmt: skip


@documented(_FORWARD, 3)
def conv3d(
    x: Any,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    data_format: str = "channels_first",
    activation: str | None = None,
    flip_kernel: bool = False,
    algorithm: str | None = None,
) -> Any:
    return _conv(3, x, weight, bias, stride, padding, dilation, groups, padding_mode, data_format, activation,
                 flip_kernel, algorithm)  # fmt: skip
