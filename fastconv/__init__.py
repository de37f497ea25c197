"""Convolution and pooling kernels for CPUs, on NumPy arrays."""

__version__ = "0.1.0"
