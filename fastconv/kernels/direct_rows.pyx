"""Direct convolution in channels_last where pixels lie equally far apart: a panel of weights under a run of them."""

from fastconv.kernels.core cimport ceil_div, fastconv_epilogue, fastconv_gemm_rows
from fastconv.kernels.direct_problem cimport Phase, Problem, epilogue_of
from fastconv.kernels.plan cimport Call


cdef const char *panel_at(const Problem *p, const Phase *f, const Call *call, Py_ssize_t group,
                          Py_ssize_t column, Py_ssize_t channel) noexcept nogil:
    """The packed weights of a panel of columns from a channel on."""
    cdef Py_ssize_t nr = p.kernels.nr, panel = group * ceil_div(p.kout, nr) + column // nr
    return call.weight + f.weight_offset + (panel * p.kin + channel) * f.all_taps * nr * p.itemsize


cdef void sum_rows(const Problem *p, const Phase *f, const Call *call, fastconv_gemm_rows *r, Py_ssize_t channel,
                   bint first) noexcept nogil:
    """One panel, of the channels from `channel` on, under all rows; r lacks but the epilogue and what is asked for: the
    next panel. But the first one, which meets pixels that no near cache holds, asks for those of the next tile if there
    are more of them than weights."""
    cdef Py_ssize_t isz = p.itemsize, mr = p.kernels.mr, at = r.c - call.destination
    cdef bint last = channel + r.k >= p.kin, adds = channel == 0 and call.residual != NULL
    cdef fastconv_epilogue epilogue = epilogue_of(call, last, last)
    if epilogue.shift != NULL:
        epilogue.shift += at % r.c_step
    if epilogue.scale != NULL:
        epilogue.scale += at % r.c_step
    epilogue.stream = p.streams and last and channel == 0 and call.activation < 0 and not call.near
    r.epilogue = &epilogue if last or adds else NULL
    r.residual = NULL
    if adds:
        r.residual = call.residual + at
    r.prefetch = r.b + r.entries * r.k * r.ldb * isz
    r.prefetch_step = r.ldb * isz // ceil_div(r.rows, mr)
    if first and f.pointwise and p.groups == 1 and r.k == p.kin and f.pixels * p.batch > p.kout:
        r.prefetch = r.a + mr * r.a_step
        r.prefetch_step = mr * isz
    if last and call.activation >= 0:
        sum_and_activate(p, call, r)
    else:
        p.kernels.gemm_rows(r)


cdef void sum_and_activate(const Problem *p, const Call *call, const fastconv_gemm_rows *rows) noexcept nogil:
    """So few rows at a time that an activation of its own meets them in L1."""
    cdef fastconv_gemm_rows r = rows[0]
    cdef Py_ssize_t left = rows.rows, tiles = 8, i
    while left > 0:
        r.rows = min(tiles * p.kernels.mr, left)
        p.kernels.gemm_rows(&r)
        for i in range(r.rows):
            p.kernels.activate(call.activation, call.alpha, r.c + i * r.c_step, r.c + i * r.c_step, r.columns)
        left -= r.rows
        r.a += r.rows * r.a_step
        r.c += r.rows * r.c_step
        r.prefetch += tiles * r.entries * r.k * r.prefetch_step
        if r.residual != NULL:
            r.residual += r.rows * r.c_step
