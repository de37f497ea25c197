"""What the steps of a weight gradient by Winograd's filtering (winograd_weight_steps.pyx) know of a call."""

from fastconv.kernels.core cimport fastconv_kernels, fastconv_pair
from fastconv.kernels.winograd_problem cimport Phase

cdef enum:
    CHUNK = 64                    # channels of planes that are turned to pixels at a time

cdef struct Problem:
    int axes
    bint channels_last
    Py_ssize_t batch, groups, kin, kout, taps, itemsize
    Py_ssize_t x_size[3]
    Py_ssize_t y_size[3]
    Py_ssize_t x_plane, y_plane   # elements
    Phase phase
    const fastconv_kernels *kernels
    Py_ssize_t lines, batches     # of tiles along W a batch, and batches of a group
    Py_ssize_t span               # batches whose sums are added up before they are added to those of others
    Py_ssize_t tiles, chain       # a batch, and those summed in one chain
    Py_ssize_t columns, rows      # channels of x, and of grad_y, that lie side by side in a block of points
    Py_ssize_t x_stride, y_stride  # bytes between points of x and of grad_y
    Py_ssize_t sum_row, sum_stride  # bytes between rows and points of the sums
    Py_ssize_t lines_bytes        # scratch a thread, where planes are turned to pixels
    Py_ssize_t taps_bytes         # and of a row of the gradient
    const fastconv_pair *pairs    # [tiles]: where a tile lies in a block of grad_y's points, and of x's

cdef struct Gradients:
    const char *x
    const char *y
    const char *zeros             # of a pixel's channels
    char *weight
    char *x_points                # [point][block][tile][columns]
    char *y_points                # [point][block][tile][rows]
    char *sums                    # [point][row of grad_y's channels][channel of x], of a span
    char *totals                  # of all; the same if there is but one span
    int *wrong                    # where to note that an element is not finite
