"""The weights of direct convolution, packed as its tiles read them.

    channels_last   [group][panel of NR rows][block of channels][tap][kc][NR]
    channels_first  [group][block of channels][tile of rows][channel][tap][row], or where zones share them
                    [group][tile of rows][tap][channel][row]

from weight[C_out][C_in / groups][kernel]. Rows that lie side by side in a pack are far apart in the weight, but a row's
taps are not, nor forward its channels: so squares of rows and taps are turned in registers, for panels 3 times as fast
as copies of single elements, and go to their places from L1. (For a tile's rows backward, fewer than lanes, that gained
nothing.)
"""

from libc.string cimport memcpy

from fastconv.kernels.core cimport ceil_div
from fastconv.kernels.direct_problem cimport Phase, Problem, weight_group

cdef enum:
    TURNED_BYTES = 32 * 1024  # of some channels' taps by NR rows: L1 keeps them until each tap has gone to its place
    LINE = 64


cdef Py_ssize_t weight_units(const Problem *p, const Phase *f, bint channels_last) noexcept nogil:
    """Units of work of a group."""
    return ceil_div(p.kout, p.kernels.nr if channels_last else f.tile_rows)


cdef bint packs_phases(const Problem *p, bint channels_last, bint backward) noexcept nogil:
    """Whether a unit packs all phases at once, each tap as it is read."""
    return channels_last and backward and p.kernel_taps > 1 and turned_bytes(p) <= TURNED_BYTES


cdef void pack_unit(const Problem *p, const Phase *f, const char *weight, char *packed, bint channels_last,
                    Py_ssize_t group, Py_ssize_t unit, bint backward) noexcept nogil:
    if packs_phases(p, channels_last, backward):
        pack_panels(p, weight, packed, group, unit)
    elif channels_last:
        pack_panel(p, f, weight, packed, group, unit, backward)
    else:
        pack_tile_rows(p, f, weight, packed, group, unit, backward)


cdef inline Py_ssize_t turned_bytes(const Problem *p) noexcept nogil:
    """Of a channel's taps by NR rows."""
    return p.kernel_taps * p.kernels.nr * p.itemsize


cdef inline char *aligned(char *buffer) noexcept nogil:
    return buffer + (LINE - <size_t> buffer % LINE) % LINE


cdef inline char *panel_of(const Problem *p, const Phase *f, char *packed, Py_ssize_t group,
                           Py_ssize_t panel) noexcept nogil:
    cdef Py_ssize_t nr = p.kernels.nr
    return packed + f.weight_offset + (group * ceil_div(p.kout, nr) + panel) * p.kin * f.all_taps * nr * p.itemsize


cdef void pack_panels(const Problem *p, const char *weight, char *packed, Py_ssize_t group,
                      Py_ssize_t panel) noexcept nogil:
    """A panel of every phase, channel by channel, each [row][tap] in one piece."""
    cdef char buffer[TURNED_BYTES + LINE]
    cdef char *turned = aligned(buffer)
    cdef const Phase *f
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, taps = p.kernel_taps, row = nr * isz, channel, tap, kc, i
    cdef Py_ssize_t first
    cdef const char *source = weight_group(p, weight, group) + panel * nr * taps * isz
    cdef char *to
    for channel in range(p.kin):
        p.kernels.pack_matrix(turned, nr, source + channel * p.kout * taps * isz, 1, taps, taps,
                              min(nr, p.kout - panel * nr))
        for i in range(p.phases):
            f = &p.phase[i]
            first = channel // f.kc * f.kc
            kc = min(f.kc, p.kin - first)
            to = panel_of(p, f, packed, group, panel) + (first * f.all_taps + channel - first) * row
            for tap in range(f.all_taps):
                memcpy(to + tap * kc * row, turned + f.weight_taps[tap] * row, row)


cdef void pack_panel(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                     Py_ssize_t panel, bint backward) noexcept nogil:
    """A panel of one phase, block of channels by block."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, taps = p.kernel_taps, channel = 0, kc, row_stride, stride
    cdef Py_ssize_t columns = min(nr, p.kout - panel * nr)
    row_stride, stride = (taps, p.kout * taps) if backward else (p.kin * taps, taps)
    cdef const char *source = weight_group(p, weight, group) + panel * nr * row_stride * isz
    cdef char *to = panel_of(p, f, packed, group, panel)
    cdef bint turns = not backward and taps > 1 and f.all_taps == taps and turned_bytes(p) <= TURNED_BYTES
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        if turns:
            turn_channels(p, f, to, kc, source + channel * stride * isz, row_stride, columns)
        else:
            copy_taps(p, f, to, kc, source + channel * stride * isz, stride, row_stride, columns)
        to += f.all_taps * kc * nr * isz
        channel += kc


cdef void turn_channels(const Problem *p, const Phase *f, char *to, Py_ssize_t kc, const char *source,
                        Py_ssize_t row_stride, Py_ssize_t columns) noexcept nogil:
    """to[tap][channel][NR] some channels at a time, each row's [channel][tap] in one piece."""
    cdef char buffer[TURNED_BYTES + LINE]
    cdef char *turned = aligned(buffer)
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, taps = p.kernel_taps, begin = 0, tap, n
    cdef Py_ssize_t most = TURNED_BYTES // turned_bytes(p)
    while begin < kc:
        n = min(most, kc - begin)
        p.kernels.pack_matrix(turned, nr, source + begin * taps * isz, 1, row_stride, n * taps, columns)
        for tap in range(f.all_taps):
            p.kernels.copy_matrix(to + (tap * kc + begin) * nr * isz, nr, turned + f.weight_taps[tap] * nr * isz,
                                  taps * nr, 1, n, nr)
        begin += n


cdef void copy_taps(const Problem *p, const Phase *f, char *to, Py_ssize_t kc, const char *source, Py_ssize_t stride,
                    Py_ssize_t row_stride, Py_ssize_t columns) noexcept nogil:
    """to[tap][channel][NR] tap by tap."""
    cdef Py_ssize_t nr = p.kernels.nr, isz = p.itemsize, tap
    for tap in range(f.all_taps):
        p.kernels.pack_matrix(to + tap * kc * nr * isz, nr, source + f.weight_taps[tap] * isz, stride, row_stride, kc,
                              columns)


cdef void pack_tile_rows(const Problem *p, const Phase *f, const char *weight, char *packed, Py_ssize_t group,
                         Py_ssize_t tile, bint backward) noexcept nogil:
    """The rows of a register tile of channels_first, block of channels by block."""
    cdef Py_ssize_t isz = p.itemsize, taps = p.kernel_taps, channel = 0, kc, row_stride, stride
    cdef Py_ssize_t row = tile * f.tile_rows, rows = min(f.tile_rows, p.kout - row)
    row_stride, stride = (taps, p.kout * taps) if backward else (p.kin * taps, taps)
    cdef const char *source = weight_group(p, weight, group) + row * row_stride * isz
    cdef char *to
    if f.apart:
        zone_rows(p, packed + (group * p.kout + row) * p.kin * taps * isz, source, stride, row_stride, rows)
        return
    while channel < p.kin:
        kc = min(f.kc, p.kin - channel)
        to = packed + f.weight_offset + ((group * p.kin + channel) * p.kout + row * kc) * f.all_taps * isz
        if not backward and f.all_taps == p.kernel_taps:
            p.kernels.copy_matrix(to, rows, source + channel * stride * isz, 1, row_stride, kc * taps, rows)
        else:
            rows_tap_by_tap(p, f, to, kc, source + channel * stride * isz, stride, row_stride, rows)
        channel += kc


cdef void zone_rows(const Problem *p, char *to, const char *source, Py_ssize_t stride, Py_ssize_t row_stride,
                    Py_ssize_t rows) noexcept nogil:
    """to[tap][channel][row]"""
    cdef Py_ssize_t isz = p.itemsize, tap
    for tap in range(p.kernel_taps):
        p.kernels.copy_matrix(to + tap * p.kin * rows * isz, rows, source + tap * isz, stride, row_stride, p.kin, rows)


cdef void rows_tap_by_tap(const Problem *p, const Phase *f, char *to, Py_ssize_t kc, const char *source,
                          Py_ssize_t stride, Py_ssize_t row_stride, Py_ssize_t rows) noexcept nogil:
    """to[channel][tap][row]"""
    cdef Py_ssize_t isz = p.itemsize, tap
    for tap in range(f.all_taps):
        p.kernels.copy_matrix(to + tap * rows * isz, f.all_taps * rows, source + f.weight_taps[tap] * isz, stride,
                              row_stride, kc, rows)
