from fastconv.kernels.depthwise_problem cimport Axis, Form, Problem
from fastconv.kernels.plan cimport RowKernel


cdef class DepthwisePass(RowKernel):
    cdef Problem problem
    cdef list keep              # arrays that the pointers of `problem` look into
    cdef Form _form
    cdef double work            # multiply-adds
    cdef Py_ssize_t many_tasks

    cdef _describe(self, geometry, dtype, padding_mode, bint backward)
    cdef _choose_form(self, bint channels_last)
    cdef _describe_axis(self, Axis *a, bint backward, Py_ssize_t in_size, Py_ssize_t out_size, Py_ssize_t kernel,
                        Py_ssize_t stride, Py_ssize_t before, Py_ssize_t dilation, mode, bint along)
    cdef void *_zeros(self, Py_ssize_t size) except NULL
    cdef const Py_ssize_t *_positions(self, values) except NULL
    cdef _describe_phases(self, Axis *a, phases, bint tables)
    cdef _describe_streams(self, Axis *a, phases, mode)
    cdef _place_runs(self)
    cdef _find_windows(self)
    cdef bint _in_windows(self, const Axis *a)
    cdef _cut_planes(self)
    cdef Py_ssize_t _plane_tasks(self)
    cdef Py_ssize_t _packed_bytes(self)
