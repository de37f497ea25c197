"""What the macro-kernels of the weight gradient (backward_weight_panels, backward_weight_sums) know of a call."""

from fastconv.kernels.core cimport ceil_div, fastconv_kernels, fastconv_pair, fastconv_piece

cdef struct Axis:              # weight_blocks.AxisBlocks
    Py_ssize_t out, kernel, length, count, positions, step
    const Py_ssize_t *shift
    const Py_ssize_t *first
    const Py_ssize_t *stop
    const Py_ssize_t *sources
    const Py_ssize_t *runs
    const Py_ssize_t *first_run

cdef struct Layout:            # strides of an activation in elements; sizes of its depth, height and width
    Py_ssize_t image, channel, pixel
    Py_ssize_t size[3]

cdef struct Problem:
    const fastconv_kernels *kernels
    Axis axis[3]
    Layout x, y
    Py_ssize_t batch, groups, co, ci, taps, itemsize    # bundles of groups, and channels a bundle
    Py_ssize_t group_co, group_ci
    bint patches, in_place                              # in_place: one tap, x is read where it lies, not packed
    Py_ssize_t co_task, ci_task, taps_task, tasks      # a task's size, and how many make the gradient
    Py_ssize_t images, blocks, part_blocks, parts      # images a block; blocks in all
    Py_ssize_t pixels, positions, columns              # the most of a block; a row of sums
    Py_ssize_t sum_bytes, pair_bytes, y_bytes, x_bytes, patch_bytes
    Py_ssize_t panel                                   # bytes from one panel of NR columns of a block to the next
    const fastconv_piece *pieces                       # of patches, first_piece[i] .. first_piece[i + 1] - 1 for the
    const Py_ssize_t *first_piece                      # i-th part of the taps

cdef struct Call:
    const char *y
    const char *x
    char *weight               # NULL where not wanted
    char *bias

cdef struct Block:
    Py_ssize_t n, images, pixels
    Py_ssize_t index[3]
    Py_ssize_t start[3]        # first output along each axis, and how many
    Py_ssize_t outs[3]

cdef struct Ahead:             # what the next block will read of y and x, which tiles of this one bring into L2
    const char *start[2]
    Py_ssize_t step[2]         # bytes from a line that a tile brings to its next one,
    Py_ssize_t each[2]         # and from a tile's first line to that of the next tile
    Py_ssize_t lines[2]        # cache lines of a pixel (channels_first: of a channel): so many tiles bring all
    Py_ssize_t turn            # tiles that brought some

cdef struct Task:
    Py_ssize_t group, co, rows, ci, channels, tap, taps    # first of each, and how many
    Py_ssize_t first_tap[2]    # the taps of depth and height that occur: first_tap .. stop_tap - 1
    Py_ssize_t stop_tap[2]
    bint bias

cdef struct Workspace:         # of one thread
    char *sums
    fastconv_pair *pairs
    char *y
    char *x
    char *patches


cdef inline Py_ssize_t tile_rows(const Problem *p, const Task *t) noexcept nogil:
    """Rows a register tile: as even as can be, since a tile of few rows waits for its own additions."""
    return ceil_div(t.rows, ceil_div(t.rows, p.kernels.pairs_mr))
