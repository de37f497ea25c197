"""Deformable convolution: how it is cut into tiles, parts and segments; where its taps read; how they are sampled.

The output's pixels are cut into tiles, the channels of a group into parts, a part into segments that share offsets. For
a tile, an offset group's points are located once; then the channels of all its segments are sampled into panels:

channels_first  lanes are pixels; a part's panel is [channel][tap][NR], so that rows of the weight are read in place.
channels_last   lanes are channels; a part's panel is rows [pixel][tap][channel].

All cuts depend on the geometry alone, and with them the order of every sum.
"""

import numpy as np

from libc.math cimport NAN
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data
from fastconv.kernels.core cimport (
    CACHE_LINE,
    ceil_div,
    even_part,
    fastconv_grid,
    fastconv_points,
    fastconv_run,
    fastconv_sampling,
    kernels,
    round_up,
)

cnp.import_array()

cdef enum:
    TILE_PIXELS = 96                # pixels a tile, channels_last: 16 register tiles

ctypedef fused real:
    float
    double


cdef void copy_planar(const Problem *p, const Tile *t, const char *source, Py_ssize_t offset_group, Py_ssize_t count,
                      char *to) noexcept nogil:
    """to[count][lanes] from the channels that an offset group has in an array that lies as the output does."""
    cdef Py_ssize_t channels = count * p.offset_groups, first = count * offset_group, at
    cdef fastconv_run run = fastconv_run(t.q, 0, t.count, 1, 0)
    if p.channels_last:
        at = (t.n * p.pixels + t.q) * channels + first
        p.kernels.pack_matrix(to, p.grid.lanes, source + at * p.itemsize, 1, channels, count, t.count)
    else:
        at = (t.n * channels + first) * p.pixels
        p.kernels.pack_runs(to, p.grid.lanes, p.grid.lanes, source + at * p.itemsize, p.pixels, count, &run, 1, NULL)


cdef void set_origins(const Problem *p, const Tile *t, real *to) noexcept nogil:
    cdef Py_ssize_t i, lanes = p.grid.lanes, y = t.q // p.out_width, x = t.q % p.out_width
    for i in range(lanes):
        to[i] = <real> (y * p.stride[0] - p.before[0]) if i < t.count else <real> NAN
        to[lanes + i] = <real> (x * p.stride[1] - p.before[1]) if i < t.count else <real> NAN
        x += 1
        if x == p.out_width:
            x = 0
            y += 1


cdef fastconv_grid grid_at(const Problem *p, const Inputs *inputs, const Tile *t, Py_ssize_t offset_group,
                           char *workspace) noexcept nogil:
    cdef fastconv_grid g = p.grid
    cdef char *offset = workspace + 2 * p.grid.lanes * p.itemsize
    g.count, g.origin, g.offset = t.count, workspace, offset
    if p.itemsize == 4:
        set_origins(p, t, <float *> workspace)
    else:
        set_origins(p, t, <double *> workspace)
    copy_planar(p, t, inputs.offset, offset_group, 2 * p.taps, offset)
    return g


cdef Py_ssize_t grid_bytes(const Problem *p) noexcept nogil:
    return round_up(((2 + 2 * p.taps) * p.grid.lanes + p.kernels.vlen) * p.itemsize, CACHE_LINE)


cdef fastconv_points points_in(const Problem *p, const Inputs *inputs, const char *points,
                               Py_ssize_t count) noexcept nogil:
    """The points that lie in memory as pixel[taps][lanes], weight[taps][4][lanes], mask[taps][lanes]."""
    cdef Py_ssize_t size = p.taps * p.grid.lanes * p.itemsize
    cdef fastconv_points v
    v.taps, v.lanes, v.count = p.taps, p.grid.lanes, count
    v.right, v.below = p.grid.width > 1, p.grid.width if p.grid.height > 1 else 0
    v.pixel, v.weight = points, points + size
    v.mask = points + 5 * size if inputs.mask != NULL else NULL
    return v


cdef void locate(const Problem *p, const Inputs *inputs, const Tile *t, Py_ssize_t offset_group, char *workspace,
                 char *points) noexcept nogil:
    cdef Py_ssize_t size = p.taps * p.grid.lanes * p.itemsize
    cdef fastconv_grid g = grid_at(p, inputs, t, offset_group, workspace)
    p.kernels.locate_points(&g, points, points + size)
    if inputs.mask != NULL:
        copy_planar(p, t, inputs.mask, offset_group, p.taps, points + 5 * size)


cdef void sample(const Problem *p, const Inputs *inputs, const Tile *t, const Segment *s, const fastconv_points *points,
                 char *samples, const char *grads, char *dots) noexcept nogil:
    """The channels of a segment, from and to their part's panels; either panel may be NULL."""
    cdef const Part *part = &p.part[s.part]
    cdef Py_ssize_t channels = p.groups * p.kin, at = s.channel - part.channel, isz = p.itemsize
    cdef fastconv_sampling a
    if p.channels_last:
        a.x = inputs.x + (t.n * p.plane * channels + s.channel) * isz
        a.x_stride, a.stride, a.tap_stride = channels, p.taps * part.channels, part.channels
    else:
        a.x = inputs.x + (t.n * channels + s.channel) * p.plane * isz
        a.x_stride, a.stride, a.tap_stride = p.plane, p.taps * p.grid.lanes, p.grid.lanes
        at *= a.stride
    a.channels, a.zeros, a.dots = s.channels, inputs.zeros, dots
    a.sample = samples + at * isz if samples != NULL else NULL
    a.grad = grads + at * isz if grads != NULL else NULL
    if p.channels_last:
        p.kernels.sample_pixels(points, &a)
    else:
        p.kernels.sample_planes(points, &a)


cdef class Deformation:
    """One deformable convolution, cut.

    `geometry` is a fastconv.geometry.ConvGeometry of two spatial dimensions; `dtype` is 0 for float32, 1 for float64.
    """

    def __init__(self, int dtype, geometry, Py_ssize_t offset_groups):
        cdef Problem *p = &self.problem
        g = geometry
        memset(p, 0, sizeof(Problem))
        p.kernels = kernels(dtype)
        p.channels_last, p.itemsize, p.batch, p.groups = g.channels_last, p.kernels.storage_bytes, g.batch, g.groups
        p.kin, p.kout = g.in_channels // g.groups, g.out_channels // g.groups
        p.offset_groups, p.taps = offset_groups, g.kernel[0] * g.kernel[1]
        p.plane, p.pixels, p.out_width = g.in_size[0] * g.in_size[1], g.out_size[0] * g.out_size[1], g.out_size[1]
        p.stride[0], p.stride[1] = g.stride
        p.before[0], p.before[1] = g.padding[0][0], g.padding[1][0]
        p.grid.height, p.grid.width = g.in_size
        p.grid.taps_y, p.grid.taps_x = g.kernel
        p.grid.dilation_y, p.grid.dilation_x = g.dilation
        self._cut_pixels()
        self._cut_channels()
        kind = np.float64 if dtype else np.float32
        self.zeros = np.zeros(p.kin, kind)
        self.work = <double> p.batch * p.pixels * p.taps * g.in_channels * (p.kout + 8)

    cdef _cut_pixels(self):
        cdef Problem *p = &self.problem
        p.rows = even_part(p.pixels, TILE_PIXELS, 1) if p.channels_last else p.kernels.nr
        p.tiles = ceil_div(p.pixels, p.rows)
        p.grid.lanes = round_up(p.rows, p.kernels.vlen)
        p.points_bytes = (6 * p.taps * p.grid.lanes + p.kernels.vlen) * p.itemsize + 2 * sizeof(Py_ssize_t)
        p.points_bytes = round_up(p.points_bytes, CACHE_LINE)

    cdef _cut_channels(self):
        """Parts of a group, and segments of parts by offset group."""
        cdef Problem *p = &self.problem
        cdef Py_ssize_t kc = max(1, PANEL_BYTES // (p.taps * p.kernels.nr * p.itemsize)), total = p.groups * p.kin
        kc = even_part(p.kin, kc, min(p.kin, CACHE_LINE // p.itemsize))
        shared = total // p.offset_groups
        parts, segments = [], []
        for first in range(0, total, p.kin):
            for channel in range(first, first + p.kin, kc):
                stop = min(channel + kc, first + p.kin)
                cuts = cut(channel, stop, shared)
                parts.append((first // p.kin, channel, stop - channel, len(segments), len(segments) + len(cuts)))
                segments += [(len(parts) - 1, a // shared, a, b - a) for a, b in cuts]
        self.segments, self.keep = segments, [np.array(table, np.intp) for table in (parts, segments)]
        p.parts, p.segments, p.parts_a_group = len(parts), len(segments), ceil_div(p.kin, kc)
        p.part = <const Part *> cnp.PyArray_DATA(self.keep[0])
        p.segment = <const Segment *> cnp.PyArray_DATA(self.keep[1])
        p.panel_bytes = round_up(kc * p.taps * (p.rows if p.channels_last else p.grid.lanes) * p.itemsize, CACHE_LINE)

    cdef void set_inputs(self, Inputs *inputs, x, offset, mask):
        inputs.x, inputs.offset, inputs.mask = data(x), data(offset), data(mask)
        inputs.zeros = data(self.zeros)


def cut(start, stop, unit):
    """The range start .. stop, cut at multiples of `unit`."""
    edges = [start, *range((start // unit + 1) * unit, stop, unit), stop]
    return list(zip(edges, edges[1:]))
