"""A planned convolution as its callers see it, whichever kernel runs it."""

import numpy as np

from libc.math cimport INFINITY
from libc.string cimport memset
cimport numpy as cnp

from fastconv.kernels.arrays cimport contiguous, data, hold, packed_memory
from fastconv.kernels.core cimport acquire, release, team

cnp.import_array()


cdef class RowKernel:
    """What may be able to make some rows of channels_last apart from others, see stripes.pyx.

    One that can has ``pack_rows(weight, bias)``: the weight, and the bias if it goes with it, as rows are made with
    them.
    """

    cdef RowMaker _rows(self):
        return RowMaker(NULL, NULL, 0, NULL)

    @property
    def makes_rows(self):
        """Whether it can."""
        return self._rows().make != NULL


cdef class ConvolutionPlan(RowKernel):
    """One convolution, ready to run any number of times, from any thread.

    A kernel's plan says how it packs, how much memory it works in and how it runs. It is made of `sources`, the phases
    of fastconv.sources; of `kin` and `kout`, source and destination channels a group; and of `backward`, whether the
    weight's first axis is the source's channels (backward_input). Its ``tasks(threads)`` are what so many threads share
    out: an array for each step that all must end before the next one begins, with the cost, in multiply-adds, of every
    task, in the order in which threads take them one by one.

    Attributes
    ----------
    multiply_adds : those of the algorithm's sums of products
    packed_bytes : of the packed weight
    stretches : whether a thread's tasks are neighbours first of all, and only then those that others have left
    """

    def __cinit__(self):
        self.keep = []

    cdef void *_hold(self, array) except NULL:
        """Where the array's elements, in C order, lie as long as the plan lives."""
        return hold(self.keep, array)

    cdef Scratch _scratch(self, int threads) noexcept nogil:
        """Scratch memory of a call with so many threads."""

    cdef void _pack(self, const char *weight, char *packed) except *:
        """Put the weight, of PyTorch's shape, in the order in which the kernel reads it."""

    cdef void _run(self, const Call *call, char *scratch, int threads) noexcept nogil:
        """The convolution, all phases."""

    @property
    def threads(self):
        """How many a call takes now."""
        return team(self.work)

    def workspace_bytes(self, int threads):
        """Scratch memory of a call with so many threads: of each, and what they share."""
        cdef Scratch s = self._scratch(threads)
        return s.own, s.shared

    def task_count(self, int threads):
        return sum(map(len, self.tasks(threads)))

    def pack(self, cnp.ndarray weight):
        """The weight, of PyTorch's shape, in the order in which the kernel reads it."""
        cdef cnp.ndarray packed = packed_memory(self.packed_bytes)
        weight = contiguous(weight)
        self._pack(data(weight), data(packed))
        return packed

    def pack_rows(self, cnp.ndarray weight, cnp.ndarray bias):
        return self.pack(weight)

    def __call__(self, cnp.ndarray source, cnp.ndarray weight, cnp.ndarray bias, cnp.ndarray destination,
                 double lower=-INFINITY, double upper=INFINITY, int activation=-1, double alpha=0,
                 cnp.ndarray residual=None, cnp.ndarray packed=None):
        """destination = activation(clamp(convolution + bias + residual, lower, upper)).

        `activation` is one of table.h, or -1 for none; `packed` saves packing the weight again. `residual`, which may
        be the destination itself, goes with forward, whose phases cover all of it.

        The arrays are of one dtype and checked by the caller; inputs that are not C-contiguous are copied.
        """
        cdef Call call
        source, weight, bias, residual = contiguous(source), contiguous(weight), contiguous(bias), contiguous(residual)
        if residual is destination and not self.adds_in_place:
            residual = residual.copy()
        memset(&call, 0, sizeof(call))
        call.source, call.end = data(source), data(source) + cnp.PyArray_NBYTES(source)
        call.unpacked, call.weight = data(weight), data(packed)
        call.zeros, call.destination, call.residual = self.zeros, data(destination), data(residual)
        call.epilogue.shift, call.epilogue.per_row = data(bias), not self.channels_last
        call.epilogue.lower, call.epilogue.upper = lower, upper
        call.activation, call.alpha = activation, alpha
        self._convolve(&call)

    cdef int _convolve(self, Call *call) except -1:
        """Run, with the weight packed for this call unless it is already."""
        cdef char *own = NULL
        cdef char *scratch = NULL
        cdef int threads = team(self.work)
        try:
            if call.weight == NULL:
                own = acquire(self.packed_bytes + 64, 1)
                self._pack(call.unpacked, own)
                call.weight = own
            scratch = acquire(scratch_bytes(self._scratch(threads), threads), 1)
            with nogil:
                self._run(call, scratch, threads)
        finally:
            release(scratch)
            release(own)
        return 0


cdef Py_ssize_t place_sizes(Py_ssize_t *to, sizes) except -1:
    """The sizes of D, H and W, missing leading ones 1; returns their product."""
    to[0], to[1], to[2] = (1,) * (3 - len(sizes)) + tuple(sizes)
    return to[0] * to[1] * to[2]


def sizes_of_parts(Py_ssize_t total, Py_ssize_t part):
    """The sizes of parts of `part` each, the last one smaller, that make up `total`."""
    return np.minimum(part, total - np.arange(0, total, part))
