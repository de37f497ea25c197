"""The macro-kernels: loops, blocking and threads in Cython, above the microkernels of src/microkernels."""
