"""Depthwise convolution where all taps are one 3x3 window: see src/microkernels/depthwise_windows.h."""

from fastconv.kernels.core cimport fastconv_depthwise_windows
from fastconv.kernels.depthwise_problem cimport Axis, Call, Problem


cdef fastconv_depthwise_windows find_windows(const Problem *p, Py_ssize_t row, Py_ssize_t rows,
                                             Py_ssize_t channels) noexcept nogil:
    cdef const Axis *height = &p.axis[1]
    cdef const Axis *width = &p.axis[2]
    cdef fastconv_depthwise_windows w
    w.lanes, w.w_across = channels, p.across
    w.rows, w.columns, w.stride = rows, width.size, width.stride
    w.top, w.left = height.phase.run.origin + row * height.stride, width.phase.run.origin
    w.height, w.width = height.source_size, width.source_size
    w.x_row, w.x_column = width.source_size * p.source_pixel, p.source_pixel
    w.y_row, w.y_column = width.size * p.pixel, p.pixel
    w.w_column = p.padded if width.stride > 1 else width.tap_step * p.padded
    w.w_row = width.kernel * w.w_column
    w.channels, w.w_channel, w.index = p.kin, p.taps * p.padded, p.index
    return w


cdef inline Py_ssize_t first_tap(const Problem *p) noexcept nogil:
    """Bytes to the weights of what windows meet first, which backward is the last tap."""
    return (p.axis[1].phase.run.tap * p.axis[2].kernel + p.axis[2].phase.run.tap) * p.padded


cdef void sum_windows(const Problem *p, const Call *call, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t channel,
                      Py_ssize_t channels, const char *x, char *y) noexcept nogil:
    """Rows of channels from `channel` on, whose x and y these are; forward, bit by bit what lines would sum."""
    cdef fastconv_depthwise_windows windows = find_windows(p, row, rows, channels)
    cdef Py_ssize_t across = channel * p.itemsize
    cdef const char *w = call.weight + across
    cdef const char *shift = call.shift + across if call.shift != NULL else NULL
    if p.spread:
        windows.top, windows.left = row + p.axis[1].before, p.axis[2].before
        windows.w_column, windows.w_row = p.padded, p.axis[2].kernel * p.padded
        p.kernels.depthwise_windows_spread(&windows, x, w, shift, y, call.lower, call.upper)
    else:
        p.kernels.depthwise_windows(&windows, x, w + first_tap(p), shift, y, call.lower, call.upper)
