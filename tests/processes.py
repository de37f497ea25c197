"""A convolution that a team of threads shares, and processes of their own to run it in."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cases import laid_out, values

import fastconv.functional as ff

# Large enough for a team of threads, in every part of the kernels: rows in parts, blocks of channels.
X, WEIGHT = values((2, 48, 24, 23), 0).astype(np.float32), values((64, 48, 3, 3), 1).astype(np.float32)
HANGS = 300  # seconds after which a process counts as hanging, on a machine that is busy, too


def convolve(layout="channels_first"):
    return ff.conv2d(laid_out(X, layout, "float32"), WEIGHT, padding=1, data_format=layout)


def python(code, **environment):
    """What a fresh Python prints, with variables set (or, for None, unset)."""
    for name in ("FASTCONV_ISA", "FASTCONV_ALGORITHM", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        environment.setdefault(name, None)
    env = {k: v for k, v in (os.environ | environment).items() if v is not None}
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True, timeout=HANGS
    )
    return process.returncode, process.stdout.strip(), process.stderr.strip()


def prints(code, **environment):
    status, out, error = python(code, **environment)
    assert status == 0, error
    return out


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads of a process in /proc")
