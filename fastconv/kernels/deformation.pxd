"""What deformable convolution and its gradients share: how the work is cut, where points lie, how they are sampled."""

from fastconv.kernels.core cimport fastconv_grid, fastconv_kernels, fastconv_points

cdef enum:
    SHARED_BYTES = 8 * 1024 * 1024  # what a team shares: panels of a stretch (forward), tiles of a chunk (backward)
    PANEL_BYTES = 256 * 1024        # the samples [KC][taps][NR] of a part: a quarter of a 1 MB L2

cdef struct Part:               # channels that are sampled and multiplied together
    Py_ssize_t group, channel, channels
    Py_ssize_t first, stop      # its segments

cdef struct Segment:            # channels of one part and one offset group
    Py_ssize_t part, offset_group, channel, channels

cdef struct Tile:               # pixels q .. q + count of image n
    Py_ssize_t n, q, count

cdef struct Problem:
    const fastconv_kernels *kernels
    bint channels_last
    Py_ssize_t itemsize, batch, groups, kin, kout, offset_groups, taps
    Py_ssize_t plane, pixels, out_width
    Py_ssize_t stride[2]
    Py_ssize_t before[2]
    fastconv_grid grid          # what all tiles share
    Py_ssize_t rows, tiles      # pixels a tile, tiles an image
    Py_ssize_t parts, segments, parts_a_group
    const Part *part
    const Segment *segment
    Py_ssize_t points_bytes, panel_bytes  # of a tile and offset group; of a tile and part
    Py_ssize_t packed_part      # bytes of a part's weights where they are packed by parts
    # backward alone
    Py_ssize_t blocks
    const Segment *block        # segments cut into cache lines of channels
    const Py_ssize_t *first_segment  # [offset_groups + 1]
    Py_ssize_t fc               # output channels that are summed at once
    Py_ssize_t ld               # channels_first: columns of grad_y with pixels and channels swapped
    Py_ssize_t chunk            # tiles a chunk

cdef struct Inputs:
    const char *x
    const char *offset
    const char *mask            # or NULL
    const char *zeros           # as many as a group has channels


cdef inline Tile tile_at(const Problem *p, Py_ssize_t index) noexcept nogil:
    cdef Py_ssize_t q = index % p.tiles * p.rows
    return Tile(index // p.tiles, q, min(p.rows, p.pixels - q))


# Where the taps of a tile fall; the arrays of the grid lie in the workspace, grid_bytes long.
cdef fastconv_grid grid_at(const Problem *p, const Inputs *inputs, const Tile *t, Py_ssize_t offset_group,
                           char *workspace) noexcept nogil
cdef Py_ssize_t grid_bytes(const Problem *p) noexcept nogil

# A tile's points of one offset group, points_bytes of memory: written by locate, which needs grid_bytes of workspace.
cdef void locate(const Problem *p, const Inputs *inputs, const Tile *t, Py_ssize_t offset_group, char *workspace,
                 char *points) noexcept nogil
cdef fastconv_points points_in(const Problem *p, const Inputs *inputs, const char *points,
                               Py_ssize_t count) noexcept nogil

# The channels of a segment, from and to the panels of their part; either panel may be NULL.
cdef void sample(const Problem *p, const Inputs *inputs, const Tile *t, const Segment *s, const fastconv_points *points,
                 char *samples, const char *grads, char *dots) noexcept nogil

cdef class Deformation:
    cdef Problem problem
    cdef readonly double work   # multiply-adds
    cdef list segments          # (part, offset group, channel, channels)
    cdef list keep              # arrays that the pointers of `problem` look into
    cdef object zeros
    cdef _cut_pixels(self)
    cdef _cut_channels(self)
    cdef void set_inputs(self, Inputs *inputs, x, offset, mask)
