"""Batch normalisation over x[N][C][S] (channels_first) or x[M][C] (channels_last; M pixels of all images).

Statistics and backward's sums are cut into parts along N or M, as many as the geometry says; each part keeps its own
double-precision values of every channel, and the parts are added in order: the bits do not depend on the number of
threads.
Arrays are C-contiguous, aligned, of one dtype, and checked by the caller.
"""

from cython.parallel cimport parallel, prange
from libc.math cimport sqrt
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data
from fastconv.kernels.core cimport (
    acquire,
    fastconv_affine,
    fastconv_kernels,
    fegetenv,
    fenv_t,
    fesetenv,
    kernels,
    release,
    team,
)

cnp.import_array()

cdef enum:
    BLOCK_BYTES = 32768    # two passes over a block of pixels (channels_last) or a few planes stay in L1 or L2
    PARTS = 32             # of the batch: tasks beside the channels, and partial sums to add


cdef struct Problem:
    const fastconv_kernels *kernels
    Py_ssize_t images      # channels_first: N; channels_last: 1
    Py_ssize_t rows        # of an image's block: C or M
    Py_ssize_t columns     # S or C
    Py_ssize_t channels
    bint per_row           # channels lie along the rows
    Py_ssize_t block       # rows of a task (channels_first) or of a step within it (channels_last)
    Py_ssize_t parts, part  # of the images (channels_first) or of the rows
    Py_ssize_t count       # values a channel
    int threads

cdef struct Channels:      # a call's values of every channel: sums in double, what `affine` reads in the arrays' dtype
    double *first          # [parts][C]: mean, or sum of grad_y; the parts end up in part 0
    double *second         # [parts][C]: squared deviations, or sum of grad_y * (x - mean)
    double *mean
    double *var
    char *centre
    char *slope
    char *shift
    char *factor


cdef inline double get(cnp.ndarray values, Py_ssize_t i, double missing) noexcept:
    """Values of any stride and alignment."""
    cdef double wide
    cdef float narrow
    if values is None:
        return missing
    if cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT64:
        memcpy(&wide, cnp.PyArray_GETPTR1(values, i), sizeof(double))
        return wide
    memcpy(&narrow, cnp.PyArray_GETPTR1(values, i), sizeof(float))
    return narrow


cdef inline void put(cnp.ndarray values, Py_ssize_t i, double value) noexcept:
    cdef float narrow = <float> value
    if values is None:
        return
    if cnp.PyArray_TYPE(values) == cnp.NPY_FLOAT64:
        memcpy(cnp.PyArray_GETPTR1(values, i), &value, sizeof(double))
    else:
        memcpy(cnp.PyArray_GETPTR1(values, i), &narrow, sizeof(float))


cdef inline double rounded(char *values, Py_ssize_t i, double value, Py_ssize_t size) noexcept nogil:
    """Store value in an array of the problem's dtype; returns what now stands there."""
    if size == sizeof(double):
        (<double *> values)[i] = value
        return value
    (<float *> values)[i] = <float> value
    return (<float *> values)[i]


cdef Problem problem(cnp.ndarray x, bint per_row) noexcept:
    """x has three dimensions [N][C][S] when per_row, else two [M][C]."""
    cdef Problem p
    cdef Py_ssize_t whole, bytes
    p.kernels = kernels(cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64)
    p.per_row = per_row
    p.images = cnp.PyArray_DIM(x, 0) if per_row else 1
    p.rows = cnp.PyArray_DIM(x, 1) if per_row else cnp.PyArray_DIM(x, 0)
    p.columns = cnp.PyArray_DIM(x, 2) if per_row else cnp.PyArray_DIM(x, 1)
    p.channels = p.rows if per_row else p.columns
    bytes = p.columns * <Py_ssize_t> p.kernels.storage_bytes
    p.block = max(1 if per_row else 8, BLOCK_BYTES // max(1, bytes))
    whole = p.images if per_row else p.rows
    p.part = max(1, (whole + PARTS - 1) // PARTS)
    if not per_row:
        p.part = (p.part + p.block - 1) // p.block * p.block
    p.parts = max(1, (whole + p.part - 1) // p.part)
    p.count = cnp.PyArray_SIZE(x) // p.channels
    p.threads = team(2.0 * cnp.PyArray_SIZE(x))
    return p


cdef Channels reserve(const Problem *p) except *:
    """One block of workspace, released by release(<char *> channels.first)."""
    cdef Channels c
    c.first = <double *> acquire((2 * p.parts + 6) * p.channels * sizeof(double), 1)
    c.second = c.first + p.parts * p.channels
    c.mean = c.second + p.parts * p.channels
    c.var = c.mean + p.channels
    c.centre = <char *> (c.var + p.channels)
    c.slope = c.centre + p.channels * sizeof(double)
    c.shift = c.slope + p.channels * sizeof(double)
    c.factor = c.shift + p.channels * sizeof(double)
    return c


cdef inline Py_ssize_t tasks(const Problem *p) noexcept nogil:
    """Parts times blocks of channels."""
    return p.parts * ((p.rows + p.block - 1) // p.block if p.per_row else 1)


cdef void part_moments(const Problem *p, Py_ssize_t task, const char *x, double *mean, double *squares) noexcept nogil:
    """mean and squares [parts][C]."""
    cdef Py_ssize_t part = task % p.parts, first = task // p.parts * p.block, size = p.kernels.storage_bytes
    cdef Py_ssize_t i = part * p.part, stop, count
    mean += part * p.channels
    squares += part * p.channels
    if p.per_row:
        stop, count = min(p.images, i + p.part), min(p.block, p.rows - first)
        while i < stop:
            p.kernels.moments(x + (i * p.rows + first) * p.columns * size, count, p.columns, 1,
                              <double> (i - part * p.part) * p.columns, mean + first, squares + first)
            i += 1
        return
    stop = min(p.rows, i + p.part)
    while i < stop:
        count = min(p.block, stop - i)
        p.kernels.moments(x + i * p.columns * size, count, p.columns, 0, <double> (i - part * p.part), mean, squares)
        i += count


cdef void part_products(const Problem *p, Py_ssize_t task, const char *g, const char *x, const char *centre,
                        double *sums, double *products) noexcept nogil:
    """sums and products [parts][C]."""
    cdef Py_ssize_t part = task % p.parts, first = task // p.parts * p.block, size = p.kernels.storage_bytes
    cdef Py_ssize_t i = part * p.part, stop, count, at
    sums += part * p.channels
    products += part * p.channels
    if p.per_row:
        stop, count = min(p.images, i + p.part), min(p.block, p.rows - first)
        while i < stop:
            at = (i * p.rows + first) * p.columns * size
            p.kernels.products(g + at, x + at, count, p.columns, 1, centre + first * size, sums + first,
                               products + first)
            i += 1
        return
    stop = min(p.rows, i + p.part)
    while i < stop:
        count, at = min(p.block, stop - i), i * p.columns * size
        p.kernels.products(g + at, x + at, count, p.columns, 0, centre, sums, products)
        i += count


cdef void moments(const Problem *p, Channels *c, const char *x) noexcept nogil:
    """c.mean and c.var, the biased variance, of x."""
    cdef Py_ssize_t task
    cdef fenv_t environment
    memset(c.first, 0, 2 * p.parts * p.channels * sizeof(double))
    fegetenv(&environment)
    with parallel(num_threads=p.threads):
        fesetenv(&environment)
        for task in prange(tasks(p), schedule="static"):
            part_moments(p, task, x, c.first, c.second)
    merge_moments(p, c)


cdef void merge_moments(const Problem *p, Channels *c) noexcept nogil:
    """Part by part (Chan, Golub & LeVeque, 1983), the last one shorter."""
    cdef double whole = p.part * (p.columns if p.per_row else 1), before = 0, count, delta
    cdef Py_ssize_t part, i, at
    for part in range(1, p.parts):
        before += whole
        count = min(whole, p.count - before)
        for i in range(p.channels):
            at = part * p.channels + i
            delta = c.first[at] - c.first[i]
            c.first[i] += delta * (count / (before + count))
            c.second[i] += c.second[at] + delta * delta * (before * count / (before + count))
    for i in range(p.channels):
        c.mean[i], c.var[i] = c.first[i], c.second[i] / p.count


cdef void products(const Problem *p, Channels *c, const char *grad_y, const char *x) noexcept nogil:
    """c.first: sums of grad_y, c.second: sums of grad_y * (x - mean); sets c.centre."""
    cdef Py_ssize_t task, part, i
    cdef double left
    cdef fenv_t environment
    for i in range(p.channels):
        rounded(c.centre, i, c.mean[i], p.kernels.storage_bytes)
    memset(c.first, 0, 2 * p.parts * p.channels * sizeof(double))
    fegetenv(&environment)
    with parallel(num_threads=p.threads):
        fesetenv(&environment)
        for task in prange(tasks(p), schedule="static"):
            part_products(p, task, grad_y, x, c.centre, c.first, c.second)
    for part in range(1, p.parts):
        for i in range(p.channels):
            c.first[i] += c.first[part * p.channels + i]
            c.second[i] += c.second[part * p.channels + i]
    for i in range(p.channels):
        left = c.mean[i] - rounded(c.centre, i, c.mean[i], p.kernels.storage_bytes)
        c.second[i] -= left * c.first[i]


cdef inline void set_affine(const Problem *p, Channels *c, Py_ssize_t i, double mean, double slope, double shift,
                            double factor) noexcept nogil:
    """Channel i's map, what rounding its mean leaves going into the shift."""
    cdef Py_ssize_t size = p.kernels.storage_bytes
    cdef double left = mean - rounded(c.centre, i, mean, size)
    rounded(c.slope, i, slope, size)
    rounded(c.shift, i, shift - left * slope, size)
    rounded(c.factor, i, factor, size)


cdef void affine(const Problem *p, const Channels *c, const char *x, const char *grad_y, char *dst) noexcept nogil:
    cdef Py_ssize_t blocks = (p.rows + p.block - 1) // p.block, task
    cdef fastconv_affine whole
    cdef fenv_t environment
    whole.dst, whole.x, whole.grad_y, whole.columns, whole.per_row = dst, x, grad_y, p.columns, p.per_row
    whole.mean, whole.slope, whole.shift, whole.factor = c.centre, c.slope, c.shift, c.factor
    fegetenv(&environment)
    with parallel(num_threads=p.threads):
        fesetenv(&environment)
        for task in prange(p.images * blocks, schedule="static"):
            affine_block(p, &whole, task // blocks, task % blocks * p.block)


cdef void affine_block(const Problem *p, const fastconv_affine *whole, Py_ssize_t image, Py_ssize_t row) noexcept nogil:
    cdef fastconv_affine block = whole[0]
    cdef Py_ssize_t size = p.kernels.storage_bytes, at = (image * p.rows + row) * p.columns * size
    block.rows = min(p.block, p.rows - row)
    block.dst += at
    block.x += at
    if block.grad_y != NULL:
        block.grad_y += at
    if block.per_row:
        block.mean += row * size
        block.slope += row * size
        block.shift += row * size
        block.factor += row * size
    p.kernels.affine(&block)


cdef void take_statistics(const Problem *p, Channels *c, cnp.ndarray mean, cnp.ndarray var) noexcept:
    cdef Py_ssize_t i
    for i in range(p.channels):
        c.mean[i], c.var[i] = get(mean, i, 0), get(var, i, 1)


def batch_norm(cnp.ndarray x, bint per_row, cnp.ndarray running_mean, cnp.ndarray running_var, cnp.ndarray weight,
               cnp.ndarray bias, bint training, double momentum, double eps, cnp.ndarray out):
    """out = (x - mean) / sqrt(var + eps) * weight + bias; x is [N][C][S] (per_row) or [M][C], not empty.

    In training the statistics are those of x and the running ones, where given, are moved towards them.
    """
    cdef Problem p = problem(x, per_row)
    cdef Channels c = reserve(&p)
    cdef const char *src = data(x)
    cdef char *dst = data(out)
    cdef double unbiased = p.count / <double> (p.count - 1) if p.count > 1 else 1
    cdef Py_ssize_t i
    try:
        if training:
            with nogil:
                moments(&p, &c, src)
            for i in range(p.channels):
                put(running_mean, i, (1 - momentum) * get(running_mean, i, 0) + momentum * c.mean[i])
                put(running_var, i, (1 - momentum) * get(running_var, i, 0) + momentum * c.var[i] * unbiased)
        else:
            take_statistics(&p, &c, running_mean, running_var)
        for i in range(p.channels):
            set_affine(&p, &c, i, c.mean[i], get(weight, i, 1) / sqrt(c.var[i] + eps), get(bias, i, 0), 0)
        with nogil:
            affine(&p, &c, src, NULL, dst)
    finally:
        release(<char *> c.first)


def batch_norm_backward(cnp.ndarray grad_y, cnp.ndarray x, bint per_row, cnp.ndarray running_mean,
                        cnp.ndarray running_var, cnp.ndarray weight, bint training, double eps, cnp.ndarray grad_x,
                        cnp.ndarray grad_weight, cnp.ndarray grad_bias):
    """Fills grad_x, and grad_weight and grad_bias unless they are None."""
    cdef Problem p = problem(x, per_row)
    cdef Channels c = reserve(&p)
    cdef const char *src = data(x)
    cdef const char *g = data(grad_y)
    cdef char *dst = data(grad_x)
    cdef double normal, factor
    cdef Py_ssize_t i
    try:
        if training:
            with nogil:
                moments(&p, &c, src)
        else:
            take_statistics(&p, &c, running_mean, running_var)
        with nogil:
            products(&p, &c, g, src)
        for i in range(p.channels):
            normal = 1 / sqrt(c.var[i] + eps)
            factor = get(weight, i, 1) * normal
            put(grad_bias, i, c.first[i])
            put(grad_weight, i, c.second[i] * normal)
            if training:  # what hangs on the statistics is an affine map of x
                set_affine(&p, &c, i, c.mean[i], -factor * normal * normal * c.second[i] / p.count,
                           -factor * c.first[i] / p.count, factor)
            else:
                set_affine(&p, &c, i, 0, factor, 0, 0)
        with nogil:
            affine(&p, &c, src if training else g, g if training else NULL, dst)
    finally:
        release(<char *> c.first)
