"""Windows as columns (unfold), and columns summed back (fold): rows of windows are copied or added as wholes.

    channels_first  y[N][C][taps][windows]   x[N][C][D][H][W]   a thread takes planes; a tap's windows lie in rows of x
    channels_last   y[N][windows][C][taps]   x[N][D][H][W][C]   a thread takes rows of windows; for fold, which adds to
                                                                pixels that windows share, blocks of channels

Arrays are C-contiguous, aligned, of one dtype, and checked by the caller. Each element is written by one thread, and a
sum's taps are added in their order, so the bits do not depend on the number of threads.
"""

import numpy as np

from cython.parallel cimport parallel, prange
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data
from fastconv.kernels.core cimport CACHE_LINE, fegetenv, fenv_t, fesetenv, team

cnp.import_array()


cdef struct Axis:
    Py_ssize_t size, out, taps, stride, dilation, before
    const Py_ssize_t *low      # [taps]: the first window whose tap lies in the image,
    const Py_ssize_t *high     # and the first beyond the last


cdef struct Fold:
    Axis axis[3]
    Py_ssize_t batch, channels, taps, windows, pixels
    bint adds                  # from columns to the image


ctypedef fused real:
    float
    double


cdef inline Py_ssize_t position(const Axis *a, Py_ssize_t window, Py_ssize_t tap) noexcept nogil:
    return window * a.stride + tap * a.dilation - a.before


cdef inline bint inside(const Axis *a, Py_ssize_t window, Py_ssize_t tap) noexcept nogil:
    return a.low[tap] <= window < a.high[tap]


# ---------------------------------------------------------------------------------------------- channels_first

cdef inline void copy_row(real *to, const real *source, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        memcpy(to, source, n * sizeof(real))
    else:
        for i in range(n):
            to[i] = source[i * step]


cdef inline void add_row(real *to, const real *source, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    if step == 1:
        for i in range(n):
            to[i] += source[i]
    else:
        for i in range(n):
            to[i * step] += source[i]


cdef void unfold_tap(const Fold *f, const real *plane, real *column, Py_ssize_t td, Py_ssize_t th,
                     Py_ssize_t tw) noexcept nogil:
    """One tap of all windows of a plane."""
    cdef const Axis *d = &f.axis[0]
    cdef const Axis *h = &f.axis[1]
    cdef const Axis *w = &f.axis[2]
    cdef Py_ssize_t low = w.low[tw], high = w.high[tw], from_w = position(w, low, tw), od, oh, row
    for od in range(d.out):
        if not inside(d, od, td):
            memset(column, 0, h.out * w.out * sizeof(real))
            column += h.out * w.out
            continue
        for oh in range(h.out):
            if inside(h, oh, th) and low < high:
                row = (position(d, od, td) * h.size + position(h, oh, th)) * w.size
                memset(column, 0, low * sizeof(real))
                copy_row(column + low, plane + row + from_w, high - low, w.stride)
                memset(column + high, 0, (w.out - high) * sizeof(real))
            else:
                memset(column, 0, w.out * sizeof(real))
            column += w.out


cdef void fold_tap(const Fold *f, const real *column, real *plane, Py_ssize_t td, Py_ssize_t th,
                   Py_ssize_t tw) noexcept nogil:
    """Adds one tap of all windows to a plane."""
    cdef const Axis *d = &f.axis[0]
    cdef const Axis *h = &f.axis[1]
    cdef const Axis *w = &f.axis[2]
    cdef Py_ssize_t low = w.low[tw], high = w.high[tw], from_w = position(w, low, tw), od, oh, row
    if low >= high:
        return
    for od in range(d.low[td], d.high[td]):
        for oh in range(h.low[th], h.high[th]):
            row = (position(d, od, td) * h.size + position(h, oh, th)) * w.size
            add_row(plane + row + from_w, column + (od * h.out + oh) * w.out + low, high - low, w.stride)


cdef void fold_plane(const Fold *f, real *image, real *columns, Py_ssize_t plane) noexcept nogil:
    cdef Py_ssize_t td, th, tw
    image += plane * f.pixels
    columns += plane * f.taps * f.windows
    if f.adds:
        memset(image, 0, f.pixels * sizeof(real))
    for td in range(f.axis[0].taps):
        for th in range(f.axis[1].taps):
            for tw in range(f.axis[2].taps):
                if f.adds:
                    fold_tap(f, columns, image, td, th, tw)
                else:
                    unfold_tap(f, image, columns, td, th, tw)
                columns += f.windows


# ----------------------------------------------------------------------------------------------- channels_last

cdef void window_taps(const Fold *f, real *image, real *window, Py_ssize_t channels, Py_ssize_t od, Py_ssize_t oh,
                      Py_ssize_t ow) noexcept nogil:
    """One window [C][taps] from or to the pixels of its taps, for the first `channels` of them."""
    cdef const Axis *d = &f.axis[0]
    cdef const Axis *h = &f.axis[1]
    cdef const Axis *w = &f.axis[2]
    cdef Py_ssize_t td, th, tw, c, tap = 0, taps = f.taps
    cdef real *pixel
    for td in range(d.taps):
        for th in range(h.taps):
            for tw in range(w.taps):
                if inside(d, od, td) and inside(h, oh, th) and inside(w, ow, tw):
                    pixel = image + ((position(d, od, td) * h.size + position(h, oh, th)) * w.size
                                     + position(w, ow, tw)) * f.channels
                    if f.adds:
                        for c in range(channels):
                            pixel[c] += window[c * taps + tap]
                    else:
                        for c in range(channels):
                            window[c * taps + tap] = pixel[c]
                elif not f.adds:
                    for c in range(channels):
                        window[c * taps + tap] = 0
                tap += 1


cdef void unfold_row(const Fold *f, real *image, real *columns, Py_ssize_t row) noexcept nogil:
    """A row of windows, counted over [N][D][H]."""
    cdef Py_ssize_t rows = f.axis[0].out * f.axis[1].out, ow
    image += row // rows * f.pixels * f.channels
    columns += row * f.axis[2].out * f.channels * f.taps
    for ow in range(f.axis[2].out):
        window_taps(f, image, columns + ow * f.channels * f.taps, f.channels, row % rows // f.axis[1].out,
                    row % f.axis[1].out, ow)


cdef void fold_block(const Fold *f, real *image, real *columns, Py_ssize_t n, Py_ssize_t channel,
                     Py_ssize_t block) noexcept nogil:
    """A block of channels of one image."""
    cdef Py_ssize_t channels = min(block, f.channels - channel), i, od, oh, ow
    image += n * f.pixels * f.channels + channel
    columns += (n * f.windows * f.channels + channel) * f.taps
    for i in range(f.pixels):
        memset(image + i * f.channels, 0, channels * sizeof(real))
    for od in range(f.axis[0].out):
        for oh in range(f.axis[1].out):
            for ow in range(f.axis[2].out):
                window_taps(f, image, columns, channels, od, oh, ow)
                columns += f.channels * f.taps


# ------------------------------------------------------------------------------------------------------- plans

cdef struct Tasks:
    Py_ssize_t count, blocks, block


cdef void run_task(const Fold *f, bint channels_last, const Tasks *t, real *image, real *columns,
                   Py_ssize_t task) noexcept nogil:
    if not channels_last:
        fold_plane(f, image, columns, task)
    elif f.adds:
        fold_block(f, image, columns, task // t.blocks, task % t.blocks * t.block, t.block)
    else:
        unfold_row(f, image, columns, task)


cdef void run(const Fold *f, bint channels_last, const Tasks *t, real *image, real *columns,
              int threads) noexcept nogil:
    cdef Py_ssize_t task
    cdef fenv_t environment
    if threads == 1:
        for task in range(t.count):
            run_task(f, channels_last, t, image, columns, task)
        return
    fegetenv(&environment)
    with parallel(num_threads=threads):
        fesetenv(&environment)
        for task in prange(t.count, schedule="dynamic"):
            run_task(f, channels_last, t, image, columns, task)


cdef class FoldPlan:
    """The windows of one unfold, which can be copied to columns or summed from them any number of times.

    `axes` holds (size, out, taps, stride, dilation, before) of D, H and W.
    """

    cdef Fold fold
    cdef bint channels_last
    cdef object keep

    def __init__(self, Py_ssize_t batch, Py_ssize_t channels, axes, bint channels_last):
        cdef Fold *f = &self.fold
        cdef Axis *a
        cdef cnp.ndarray low, high
        cdef int i
        self.keep, self.channels_last = [], channels_last
        f.batch, f.channels, f.taps, f.windows, f.pixels = batch, channels, 1, 1, 1
        for i in range(3):
            a = &f.axis[i]
            a.size, a.out, a.taps, a.stride, a.dilation, a.before = axes[i]
            start = np.arange(a.taps, dtype=np.intp) * a.dilation - a.before
            low = np.clip(-(start // a.stride), 0, a.out)
            high = np.clip((a.size - 1 - start) // a.stride + 1, low, a.out)
            self.keep += [low, high]
            a.low, a.high = <const Py_ssize_t *> data(low), <const Py_ssize_t *> data(high)
            f.taps *= a.taps
            f.windows *= a.out
            f.pixels *= a.size

    def __call__(self, cnp.ndarray image, cnp.ndarray columns, bint adds):
        """columns = windows of the image, or with `adds` image = sum of the windows in columns."""
        cdef Fold f = self.fold
        cdef Tasks t
        cdef Py_ssize_t line = CACHE_LINE // cnp.PyArray_ITEMSIZE(image)
        cdef int threads = team(<double> f.batch * f.channels * f.taps * f.windows * 4)
        f.adds = adds
        t.blocks, t.block = 1, f.channels
        if not self.channels_last:
            t.count = f.batch * f.channels
        elif adds:
            if threads > 1:
                t.block = (f.channels // (2 * threads) + line) // line * line
                t.blocks = (f.channels + t.block - 1) // t.block
            t.count = f.batch * t.blocks
        else:
            t.count = f.batch * f.axis[0].out * f.axis[1].out
        with nogil:
            if cnp.PyArray_TYPE(image) == cnp.NPY_FLOAT64:
                run[double](&f, self.channels_last, &t, <double *> data(image), <double *> data(columns), threads)
            else:
                run[float](&f, self.channels_last, &t, <float *> data(image), <float *> data(columns), threads)
