"""Batch normalisation over x[N][C][S] (channels_first) or x[M][C] (channels_last; M pixels of all images).

Statistics and backward's sums are cut into parts along N or M, as many as the geometry says; each part keeps its own
double-precision values of every channel, and the parts are added in order: the bits do not depend on the number of
threads.

Every pass walks over blocks that stay in L1, so that what comes after the normalisation (a residual, an activation)
and what backward does before its sums (the activation's gradient, whose argument is computed again from x) costs no
memory traffic: forward reads x twice and writes y, backward reads grad_y and x twice and writes grad_x. After a
residual was added x alone tells no argument: y tells the derivative, and the activation's gradient, which is the
residual's, is kept. A second pass from the end to the start, where a cache has what was read last, is slower (0.8).
Arrays are C-contiguous, aligned, of one dtype, and checked by the caller.
"""

from cython.parallel cimport parallel, prange, threadid
from libc.math cimport NAN, sqrt
from libc.string cimport memcpy, memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport data
from fastconv.kernels.core cimport (
    FASTCONV_RELU,
    FASTCONV_RELU6,
    FASTCONV_SIGMOID,
    FASTCONV_TANH,
    acquire,
    ceil_div,
    fastconv_affine,
    fastconv_gate,
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
    BLOCK_BYTES = 8192     # of an array: the three that a pass reads or writes, and the scratch, share L1
    MOMENT_BYTES = 32768   # two passes over x alone
    PARTS = 32             # of the batch: tasks beside the channels, and partial sums to add


cdef struct Problem:
    const fastconv_kernels *kernels
    Py_ssize_t size        # bytes of an element
    Py_ssize_t images      # channels_first: N; channels_last: 1
    Py_ssize_t rows        # of an image: C or M
    Py_ssize_t columns     # S or C
    Py_ssize_t channels
    bint per_row           # channels lie along the rows
    Py_ssize_t block, piece  # rows and columns of a block
    Py_ssize_t moment      # rows of a block of statistics
    Py_ssize_t parts, part  # of the images (channels_first) or of the rows
    Py_ssize_t count       # values a channel
    int activation         # of table.h, or -1
    bint gated             # whether its gradient is a gate of what reads grad_y
    double alpha
    int threads

cdef struct Map:           # (x - centre) * slope + shift + added * factor, channel by channel, in the arrays' dtype
    char *centre
    char *slope
    char *shift
    char *factor

cdef struct Channels:      # a call's values of every channel: sums in double, maps
    double *first          # [parts][C]: mean, or sum of grad_y; the parts end up in part 0
    double *second         # [parts][C]: squared deviations, or sum of grad_y * (x - mean)
    double *mean
    double *var
    Map forward
    Map backward
    const char *y          # of a sum with a residual, or NULL
    char *of_sum           # its gradient by the argument of the activation
    char *scratch          # [threads][BLOCK_BYTES]: such gradients of x alone

cdef struct Block:         # rows and columns side by side in memory
    Py_ssize_t at          # bytes
    Py_ssize_t channel     # of its first element
    Py_ssize_t rows, columns


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


cdef Problem problem(cnp.ndarray x, bint per_row, int activation, double alpha) noexcept:
    """x has three dimensions [N][C][S] when per_row, else two [M][C]."""
    cdef Problem p
    cdef Py_ssize_t whole, bytes
    p.kernels = kernels(cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64)
    p.size = p.kernels.storage_bytes
    p.per_row = per_row
    p.images = cnp.PyArray_DIM(x, 0) if per_row else 1
    p.rows = cnp.PyArray_DIM(x, 1) if per_row else cnp.PyArray_DIM(x, 0)
    p.columns = cnp.PyArray_DIM(x, 2) if per_row else cnp.PyArray_DIM(x, 1)
    p.channels = p.rows if per_row else p.columns
    bytes = p.columns * p.size
    p.block, p.moment = max(1, BLOCK_BYTES // bytes), max(1 if per_row else 8, MOMENT_BYTES // bytes)
    p.piece = min(p.columns, BLOCK_BYTES // p.size)
    whole = p.images if per_row else p.rows
    p.part = max(1, (whole + PARTS - 1) // PARTS)
    if not per_row:
        p.part = (p.part + p.moment - 1) // p.moment * p.moment
    p.parts = max(1, (whole + p.part - 1) // p.part)
    p.count = cnp.PyArray_SIZE(x) // p.channels
    p.activation, p.alpha, p.gated = activation, alpha, False
    p.threads = team(2.0 * cnp.PyArray_SIZE(x))
    return p


cdef Channels reserve(const Problem *p) except *:
    """One block of workspace, released by release(<char *> channels.first)."""
    cdef Channels c
    cdef Py_ssize_t row = p.channels * sizeof(double)
    c.y = NULL
    c.first = <double *> acquire((2 * p.parts + 10) * row + p.threads * BLOCK_BYTES, 1)
    c.second = c.first + p.parts * p.channels
    c.mean = c.second + p.parts * p.channels
    c.var = c.mean + p.channels
    c.forward = map_at(<char *> (c.var + p.channels), row)
    c.backward = map_at(c.forward.factor + row, row)
    c.scratch = c.backward.factor + row
    return c


cdef inline Map map_at(char *start, Py_ssize_t row) noexcept nogil:
    cdef Map map
    map.centre, map.slope, map.shift, map.factor = start, start + row, start + 2 * row, start + 3 * row
    return map


cdef void part_moments(const Problem *p, Py_ssize_t task, const char *x, double *mean, double *squares) noexcept nogil:
    """mean and squares [parts][C]."""
    cdef Py_ssize_t part = task % p.parts, first = task // p.parts * p.moment
    cdef Py_ssize_t i = part * p.part, stop, count
    mean += part * p.channels
    squares += part * p.channels
    if p.per_row:
        stop, count = min(p.images, i + p.part), min(p.moment, p.rows - first)
        while i < stop:
            p.kernels.moments(x + (i * p.rows + first) * p.columns * p.size, count, p.columns, 1,
                              <double> (i - part * p.part) * p.columns, mean + first, squares + first)
            i += 1
        return
    stop = min(p.rows, i + p.part)
    while i < stop:
        count = min(p.moment, stop - i)
        p.kernels.moments(x + i * p.columns * p.size, count, p.columns, 0, <double> (i - part * p.part), mean, squares)
        i += count


cdef inline Block block_of(const Problem *p, Py_ssize_t image, Py_ssize_t row, Py_ssize_t end,
                           Py_ssize_t piece) noexcept nogil:
    """The one that starts at this row, before row `end`, with this piece of the columns."""
    cdef Py_ssize_t column = piece * p.piece
    cdef Block b
    b.channel = row if p.per_row else column
    b.rows, b.columns = min(p.block, end - row), min(p.piece, p.columns - column)
    b.at = ((image * p.rows + row) * p.columns + column) * p.size
    return b


cdef inline fastconv_affine affine(const Problem *p, const Map *map, Block b, const char *x,
                                   const char *added) noexcept nogil:
    """The map of x and, unless it is NULL, of what is added: both point to the block."""
    cdef fastconv_affine block
    cdef Py_ssize_t first = b.channel * p.size
    block.dst, block.x, block.grad_y, block.gate, block.per_row = NULL, x, added, NULL, p.per_row
    block.rows, block.columns = b.rows, b.columns
    block.mean, block.slope = map.centre + first, map.slope + first
    block.shift, block.factor = map.shift + first, map.factor + first
    return block


cdef inline void apply(const Problem *p, const Map *map, Block b, const char *x, const char *added,
                       char *dst) noexcept nogil:
    cdef fastconv_affine block = affine(p, map, b, x, added)
    block.dst = dst
    p.kernels.affine(&block)


cdef inline fastconv_gate gate_of(const Problem *p, const Channels *c, Block b) noexcept nogil:
    """Where a clamp lets the gradient through."""
    cdef fastconv_gate gate
    gate.slope, gate.shift = c.forward.slope + b.channel * p.size, c.forward.shift + b.channel * p.size
    gate.y, gate.kept = NULL, NULL
    if c.y != NULL:
        gate.y, gate.kept = c.y + b.at, c.of_sum + b.at
    gate.lower, gate.upper = 0, 6 if p.activation == FASTCONV_RELU6 else NAN
    return gate


cdef inline const char *gradient(const Problem *p, const Channels *c, Block b, const char *grad_y, const char *x,
                                 char *scratch) noexcept nogil:
    """The block of the gradient by the activation's argument, in of_sum or scratch; grad_y's own without an activation,
    or where a gate does its work."""
    cdef Py_ssize_t n = b.rows * b.columns
    if p.activation < 0 or p.gated:
        return grad_y + b.at
    if c.y != NULL:
        p.kernels.activate_backward(p.activation, p.alpha, c.of_sum + b.at, grad_y + b.at, c.y + b.at, n)
        return c.of_sum + b.at
    apply(p, &c.forward, b, x + b.at, NULL, scratch)
    if p.activation in (FASTCONV_SIGMOID, FASTCONV_TANH):  # whose derivatives are told by their results
        p.kernels.activate(p.activation, p.alpha, scratch, scratch, n)
    p.kernels.activate_backward(p.activation, p.alpha, scratch, grad_y + b.at, scratch, n)
    return scratch


cdef void part_products(const Problem *p, Py_ssize_t task, const char *g, const char *x, Channels *c,
                        char *scratch) noexcept nogil:
    """Sums of part `task % parts`: of all its images' blocks of some channels, or of its own rows."""
    cdef Py_ssize_t part = task % p.parts, row = task // p.parts * p.block, first = part * p.part, image, stop
    if p.per_row:
        for image in range(first, min(p.images, first + p.part)):
            block_products(p, c, part, image, row, p.rows, g, x, scratch)
        return
    row, stop = first, min(p.rows, first + p.part)
    while row < stop:
        block_products(p, c, part, 0, row, stop, g, x, scratch)
        row += p.block


cdef void block_products(const Problem *p, Channels *c, Py_ssize_t part, Py_ssize_t image, Py_ssize_t row,
                         Py_ssize_t end, const char *g, const char *x, char *scratch) noexcept nogil:
    cdef Py_ssize_t piece, at
    cdef fastconv_affine block
    cdef fastconv_gate gate
    cdef Block b
    for piece in range(ceil_div(p.columns, p.piece)):
        b = block_of(p, image, row, end, piece)
        at = part * p.channels + b.channel
        block = affine(p, &c.forward, b, x + b.at, gradient(p, c, b, g, x, scratch))
        if p.gated:
            gate = gate_of(p, c, b)
            block.gate = &gate
        p.kernels.products(&block, c.first + at, c.second + at)


cdef void moments(const Problem *p, Channels *c, const char *x) noexcept nogil:
    """c.mean and c.var, the biased variance, of x."""
    cdef Py_ssize_t task
    cdef fenv_t environment
    memset(c.first, 0, 2 * p.parts * p.channels * sizeof(double))
    fegetenv(&environment)
    with parallel(num_threads=p.threads):
        fesetenv(&environment)
        for task in prange(p.parts * (ceil_div(p.rows, p.moment) if p.per_row else 1), schedule="static"):
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
    """c.first: sums of grad_y, c.second: sums of grad_y * (x - mean), of the gradient by the activation's argument."""
    cdef Py_ssize_t task, part, i
    cdef double left
    cdef fenv_t environment
    memset(c.first, 0, 2 * p.parts * p.channels * sizeof(double))
    fegetenv(&environment)
    with parallel(num_threads=p.threads):
        fesetenv(&environment)
        for task in prange(p.parts * (ceil_div(p.rows, p.block) if p.per_row else 1), schedule="static"):
            part_products(p, task, grad_y, x, c, c.scratch + threadid() * BLOCK_BYTES)
    for part in range(1, p.parts):
        for i in range(p.channels):
            c.first[i] += c.first[part * p.channels + i]
            c.second[i] += c.second[part * p.channels + i]
    for i in range(p.channels):
        left = c.mean[i] - rounded(c.forward.centre, i, c.mean[i], p.size)
        c.second[i] -= left * c.first[i]


cdef inline void set_map(const Problem *p, Map *map, Py_ssize_t i, double mean, double slope, double shift,
                         double factor) noexcept nogil:
    """Channel i's map, what rounding its mean leaves going into the shift."""
    cdef double left = mean - rounded(map.centre, i, mean, p.size)
    rounded(map.slope, i, slope, p.size)
    rounded(map.shift, i, shift - left * slope, p.size)
    rounded(map.factor, i, factor, p.size)


cdef struct Pass:          # the second one over the arrays
    const char *x
    const char *added      # a residual or NULL; backward: grad_y
    char *dst
    bint backward, training


cdef void second_pass(const Problem *p, const Channels *c, const Pass *a) noexcept nogil:
    """dst = the activation of the forward map of x and, unless it is NULL, a residual.

    Backward it is the backward map of the gradient by the activation's argument and, in training, of x.
    """
    cdef Py_ssize_t blocks = ceil_div(p.rows, p.block), task
    cdef fenv_t environment
    fegetenv(&environment)
    with parallel(num_threads=p.threads):
        fesetenv(&environment)
        for task in prange(p.images * blocks, schedule="static"):
            if a.backward:
                differentiate_rows(p, c, a, task // blocks, task % blocks * p.block,
                                   c.scratch + threadid() * BLOCK_BYTES)
            else:
                normalise_rows(p, c, a, task // blocks, task % blocks * p.block)


cdef void normalise_rows(const Problem *p, const Channels *c, const Pass *a, Py_ssize_t image,
                         Py_ssize_t row) noexcept nogil:
    cdef Py_ssize_t piece
    cdef const char *added = NULL
    cdef Block b
    for piece in range(ceil_div(p.columns, p.piece)):
        b = block_of(p, image, row, p.rows, piece)
        if a.added != NULL:
            added = a.added + b.at
        apply(p, &c.forward, b, a.x + b.at, added, a.dst + b.at)
        if p.activation >= 0:
            p.kernels.activate(p.activation, p.alpha, a.dst + b.at, a.dst + b.at, b.rows * b.columns)


cdef void differentiate_rows(const Problem *p, const Channels *c, const Pass *a, Py_ssize_t image, Py_ssize_t row,
                             char *scratch) noexcept nogil:
    cdef Py_ssize_t piece
    cdef const char *g
    cdef fastconv_affine block
    cdef fastconv_gate gate
    cdef Block b
    for piece in range(ceil_div(p.columns, p.piece)):
        b = block_of(p, image, row, p.rows, piece)
        g = gradient(p, c, b, a.added, a.x, scratch)
        block = affine(p, &c.backward, b, a.x + b.at if a.training else g, g if a.training else NULL)
        block.dst = a.dst + b.at
        if p.gated:
            gate = gate_of(p, c, b)
            block.gate = &gate
        p.kernels.affine(&block)


cdef void take_statistics(const Problem *p, Channels *c, cnp.ndarray mean, cnp.ndarray var) noexcept:
    cdef Py_ssize_t i
    for i in range(p.channels):
        c.mean[i], c.var[i] = get(mean, i, 0), get(var, i, 1)


cdef void set_forward(const Problem *p, Channels *c, cnp.ndarray weight, cnp.ndarray bias, double eps) noexcept:
    cdef Py_ssize_t i
    for i in range(p.channels):
        set_map(p, &c.forward, i, c.mean[i], get(weight, i, 1) / sqrt(c.var[i] + eps), get(bias, i, 0), 1)


def batch_norm(cnp.ndarray x, bint per_row, cnp.ndarray running_mean, cnp.ndarray running_var, cnp.ndarray weight,
               cnp.ndarray bias, bint training, double momentum, double eps, int activation, double alpha,
               cnp.ndarray residual, cnp.ndarray statistics, cnp.ndarray out):
    """out = f((x - mean) / sqrt(var + eps) * weight + bias + residual); x is [N][C][S] (per_row) or [M][C], not empty.

    In training the statistics are those of x, which are written to statistics[2][C], doubles, and the running ones,
    where given, are moved towards them. activation is one of table.h or -1.
    """
    cdef Problem p = problem(x, per_row, activation, alpha)
    cdef Channels c = reserve(&p)
    cdef Pass last = Pass(data(x), data(residual), data(out), False, training)
    cdef double unbiased = p.count / <double> (p.count - 1) if p.count > 1 else 1
    cdef Py_ssize_t i
    try:
        if training:
            with nogil:
                moments(&p, &c, last.x)
            memcpy(data(statistics), c.mean, 2 * p.channels * sizeof(double))
            for i in range(p.channels):
                put(running_mean, i, (1 - momentum) * get(running_mean, i, 0) + momentum * c.mean[i])
                put(running_var, i, (1 - momentum) * get(running_var, i, 0) + momentum * c.var[i] * unbiased)
        else:
            take_statistics(&p, &c, running_mean, running_var)
        set_forward(&p, &c, weight, bias, eps)
        with nogil:
            second_pass(&p, &c, &last)
    finally:
        release(<char *> c.first)


def batch_norm_backward(cnp.ndarray grad_y, cnp.ndarray x, bint per_row, cnp.ndarray running_mean,
                        cnp.ndarray running_var, cnp.ndarray weight, cnp.ndarray bias, bint training, double eps,
                        int activation, double alpha, cnp.ndarray statistics, cnp.ndarray y, cnp.ndarray grad_x,
                        cnp.ndarray grad_weight, cnp.ndarray grad_bias, cnp.ndarray grad_residual):
    """Fills grad_x, and grad_weight and grad_bias unless they are None; statistics may be None, also in training.

    y, if it is given with an activation, tells its derivative, and grad_residual is filled, too.
    """
    cdef Problem p = problem(x, per_row, activation, alpha)
    cdef Channels c = reserve(&p)
    cdef Pass last = Pass(data(x), data(grad_y), data(grad_x), True, training)
    cdef double normal, factor
    cdef Py_ssize_t i
    try:
        if not training:
            take_statistics(&p, &c, running_mean, running_var)
        elif statistics is not None:
            memcpy(c.mean, data(statistics), 2 * p.channels * sizeof(double))
        else:
            with nogil:
                moments(&p, &c, last.x)
        set_forward(&p, &c, weight, bias, eps)
        if y is not None and activation >= 0:
            c.y, c.of_sum = data(y), data(grad_residual)
        p.gated = activation in (FASTCONV_RELU, FASTCONV_RELU6) and (training or c.y != NULL)
        with nogil:
            products(&p, &c, last.added, last.x)
        if c.y != NULL:
            last.added, p.activation, p.gated = c.of_sum, -1, False
        for i in range(p.channels):
            normal = 1 / sqrt(c.var[i] + eps)
            factor = get(weight, i, 1) * normal
            put(grad_bias, i, c.first[i])
            put(grad_weight, i, c.second[i] * normal)
            if training:  # what hangs on the statistics is an affine map of x
                set_map(&p, &c.backward, i, c.mean[i], -factor * normal * normal * c.second[i] / p.count,
                        -factor * c.first[i] / p.count, factor)
            else:
                set_map(&p, &c.backward, i, 0, factor, 0, 0)
        with nogil:
            second_pass(&p, &c, &last)
    finally:
        release(<char *> c.first)
