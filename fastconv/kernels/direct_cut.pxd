"""How a phase of direct convolution is cut into tasks for so many threads."""

from fastconv.kernels.direct_problem cimport Cut, Phase, Problem

cdef Cut cut_for(const Problem *p, const Phase *f, bint channels_last, int threads) noexcept nogil
