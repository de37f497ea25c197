"""The macro-kernels: loops, blocking and threads in Cython, above the microkernels of src/microkernels."""

try:
    from fastconv.kernels import core  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "fastconv's kernels are not compiled in this folder; build them with `pip install -e .` in the source tree, "
        "or start Python elsewhere to use an installed fastconv"
    ) from error
