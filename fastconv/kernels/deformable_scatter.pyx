"""grad_x of deformable convolution: the gradients of samples, added to the pixels that they were blended from."""

from libc.string cimport memset

from fastconv.kernels.core cimport CACHE_LINE, fastconv_points, fastconv_sampling
from fastconv.kernels.deformable_chunk cimport Call, Chunk, chunk_points, extent_of, panel_of, points_of
from fastconv.kernels.deformation cimport Part, Problem, Segment

ctypedef fused real:
    float
    double

cdef enum:
    PLANE_BYTES = 4 * 1024 * 1024   # the largest image of one cache line a pixel that a thread gathers grad_x in


cdef Py_ssize_t scatter_bytes(const Problem *p) noexcept nogil:
    """Workspace that scatter needs."""
    if p.channels_last or p.plane * CACHE_LINE > PLANE_BYTES:
        return 0
    return (p.grid.lanes + p.plane) * CACHE_LINE


cdef void scatter(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t n, const Segment *block,
                  char *workspace) noexcept nogil:
    """Add to grad_x what the chunk's tiles of image n give to a block of channels."""
    cdef Py_ssize_t first = max(c.first, n * p.tiles), stop = min(c.first + c.count, (n + 1) * p.tiles)
    cdef Py_ssize_t channels = p.groups * p.kin, tile
    cdef char *image = call.grad_x + n * p.plane * channels * p.itemsize
    if p.channels_last:
        for tile in range(first, stop):
            scatter_rows(p, call, c, tile, block, image + block.channel * p.itemsize)
    elif p.plane * CACHE_LINE <= PLANE_BYTES:
        scatter_lines(p, call, c, first, stop, block, image + block.channel * p.plane * p.itemsize, workspace)
    else:
        for tile in range(first, stop):
            scatter_planes(p, call, c, tile, block, image + block.channel * p.plane * p.itemsize)


cdef void scatter_rows(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t tile, const Segment *block,
                       char *grad_x) noexcept nogil:
    cdef const Part *part = &p.part[block.part]
    cdef fastconv_points points = chunk_points(p, call, c, tile, block.offset_group)
    cdef fastconv_sampling s
    s.grad = c.grads + panel_of(p, part, tile - c.first) + (block.channel - part.channel) * p.itemsize
    s.channels, s.x_stride = block.channels, p.groups * p.kin
    s.stride, s.tap_stride = p.taps * part.channels, part.channels
    p.kernels.scatter_pixels(&points, &s, grad_x)


cdef void scatter_planes(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t tile, const Segment *block,
                         char *grad_x) noexcept nogil:
    """Channel by channel, straight into large planes: a plane is an image of one channel."""
    cdef const Part *part = &p.part[block.part]
    cdef fastconv_points points = chunk_points(p, call, c, tile, block.offset_group)
    cdef Py_ssize_t i, channel = block.channel - part.channel, row = p.taps * p.grid.lanes * p.itemsize
    cdef fastconv_sampling s
    s.channels, s.x_stride, s.stride, s.tap_stride = 1, 1, 1, p.grid.lanes
    for i in range(block.channels):
        s.grad = c.grads + panel_of(p, part, tile - c.first) + (channel + i) * row
        p.kernels.scatter_pixels(&points, &s, grad_x + i * p.plane * p.itemsize)


cdef void scatter_lines(const Problem *p, const Call *call, const Chunk *c, Py_ssize_t first, Py_ssize_t stop,
                        const Segment *block, char *grad_x, char *workspace) noexcept nogil:
    """Into an image of one cache line of channels a pixel, then to planes: so lanes are channels here, too."""
    cdef Py_ssize_t width = CACHE_LINE // p.itemsize, line = p.grid.lanes * p.itemsize, tile, tap
    cdef Py_ssize_t low = p.plane, high = 0
    cdef const Part *part = &p.part[block.part]
    cdef const char *grads
    cdef char *image = workspace + p.grid.lanes * CACHE_LINE
    cdef Py_ssize_t *extent
    cdef fastconv_points points
    cdef fastconv_sampling s
    for tile in range(first, stop):
        extent = extent_of(p, points_of(p, c, tile - c.first, block.offset_group))
        low, high = min(low, extent[0]), max(high, extent[1])
    high = min(p.plane, high + p.grid.width + 2)
    memset(image + low * CACHE_LINE, 0, (high - low) * CACHE_LINE)
    s.grad, s.channels, s.stride, s.tap_stride, s.x_stride = workspace, width, width, 0, width
    for tile in range(first, stop):
        points = chunk_points(p, call, c, tile, block.offset_group)
        points.taps = 1
        grads = c.grads + panel_of(p, part, tile - c.first) + (block.channel - part.channel) * p.taps * line
        for tap in range(p.taps):
            p.kernels.pack_matrix(workspace, width, grads + tap * line, 1, p.taps * p.grid.lanes, points.count,
                                  block.channels)
            p.kernels.scatter_pixels(&points, &s, image)
            points.pixel += line
            points.weight += 4 * line
            points.mask = points.mask + line if points.mask != NULL else NULL
    flush(p, image, low, high, block.channels, grad_x, workspace)


cdef void flush(const Problem *p, const char *image, Py_ssize_t low, Py_ssize_t high, Py_ssize_t channels, char *grad_x,
                char *workspace) noexcept nogil:
    """grad_x[channel][low .. high] += image[low .. high][channel], as many pixels at once as a tile has lanes."""
    cdef Py_ssize_t channel, pixels, width = CACHE_LINE // p.itemsize, ld = p.grid.lanes, at
    while low < high:
        pixels = min(ld, high - low)
        p.kernels.pack_matrix(workspace, ld, image + low * CACHE_LINE, 1, width, channels, pixels)
        for channel in range(channels):
            at = channel * p.plane + low
            if p.itemsize == 4:
                add(<float *> grad_x + at, <const float *> workspace + channel * ld, pixels)
            else:
                add(<double *> grad_x + at, <const double *> workspace + channel * ld, pixels)
        low += pixels


cdef inline void add(real *to, const real *source, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        to[i] += source[i]
