"""Backends: other libraries' models on fastconv's kernels. Each is imported by its own name and needs its library."""
