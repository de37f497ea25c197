"""The probe of multiply-adds does what it counts."""

import re
import shutil
import subprocess

import pytest

from fastconv.kernels import core, probe

pytestmark = pytest.mark.isa_independent

COUNTED = 12  # multiply-adds a step, see src/microkernels/probe.c


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs binutils to read the machine code")
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_no_multiply_add_of_a_step_is_left_out(dtype: str) -> None:
    """A compiler that sees through the operands may drop a sum that stays what it is; the peak would be too high."""
    code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", core.__file__], capture_output=True, text=True)
    probes = re.findall(rf"<probe_fma_{dtype}[^>]*>:\n(.*?)\n\n", code.stdout, re.DOTALL)
    assert probes
    for instructions in probes:
        assert len(re.findall(r"\t(?:vfn?madd|mulp|fmla)", instructions)) >= COUNTED


def test_the_rate_is_that_of_all_threads() -> None:
    assert probe.fma_rate("float32", 1, 100_000) > 1e8
