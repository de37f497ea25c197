"""The knobs of a process: ISA and algorithm policy, and what `info` says."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import prints, python

import fastconv
import fastconv.functional as ff
from fastconv import runtime
from fastconv.kernels import core

pytestmark = pytest.mark.isa_independent

# --- ISA -------------------------------------------------------------------------------------------------------------


def fuses():
    """Whether the kernel rounds a product before it adds: 1 + 2^-12 squared is not a float32."""
    a = np.float32(1 + 2**-12)
    x, weight = np.array([[[-a * a, a]]]), np.array([[[np.float32(1), a]]])
    both = ff.conv1d(x, weight)[0, 0, 0], ff.conv1d(x[..., ::-1], weight[..., ::-1])[0, 0, 0]
    return any(value != 0 for value in both)


def test_each_isa_runs_its_own_microkernels(isa):
    """The register tile and the rounding of its multiply-adds tell them apart."""
    vlen = {"avx512": 16, "avx2": 8, "baseline": 4, "neon": 4}[isa]
    assert core.register_tile("float32")["vlen"] == vlen
    assert core.register_tile("float64")["vlen"] == vlen // 2
    assert runtime.get_isa() == isa
    assert fuses() == (isa != "baseline")


def test_switching_isas_switches_plans_that_are_remembered():
    before = runtime.get_isa()
    try:
        for _ in range(2):
            for isa in runtime.available_isas():
                runtime.set_isa(isa)
                assert fuses() == (isa != "baseline")
    finally:
        runtime.set_isa(before)


@pytest.mark.parametrize("name", runtime.available_isas())
def test_a_variable_forces_an_isa(name):
    code = "from fastconv import runtime; print(runtime.get_isa(), runtime.info()['isa'].split()[0])"
    assert prints(code, FASTCONV_ISA=name) == f"{name} {name}"


def test_the_widest_isa_is_the_default():
    assert prints("from fastconv import runtime; print(runtime.get_isa())") == runtime.available_isas()[0]
    assert (
        prints("from fastconv import runtime; print(runtime.get_isa())", FASTCONV_ISA="")
        == (runtime.available_isas()[0])
    )


@pytest.mark.parametrize("name", ["sse9", "AVX2", " avx2", "auto"])
def test_an_unknown_isa_raises(name):
    status, _, error = python("import fastconv", FASTCONV_ISA=name)
    assert status != 0
    assert f"ValueError: FASTCONV_ISA: isa must be one of {runtime.available_isas()}, got {name!r}" in error
    before = runtime.get_isa()
    with pytest.raises(ValueError, match="this build does not hold it"):
        runtime.set_isa(name)
    assert runtime.get_isa() == before


def test_an_isa_that_the_machine_lacks_raises(monkeypatch):
    widest, *others = runtime.available_isas()
    monkeypatch.setattr(core, "supported_isas", lambda: tuple(others))
    with pytest.raises(ValueError, match=rf"got '{widest}': this machine does not support it"):
        runtime.set_isa(widest)


# --- algorithm -------------------------------------------------------------------------------------------------------


def test_the_nearest_policy_wins():
    assert runtime.resolve_algorithm() == "auto"
    with fastconv.algorithm("direct"):
        assert runtime.resolve_algorithm() == "direct"
        assert runtime.resolve_algorithm("auto") == "auto"
        with fastconv.algorithm("auto"):
            assert runtime.resolve_algorithm() == "auto"
        assert runtime.resolve_algorithm() == "direct"
    assert runtime.resolve_algorithm() == "auto"


def test_a_policy_ends_with_its_block_after_an_error():
    with pytest.raises(RuntimeError), fastconv.algorithm("direct"):
        raise RuntimeError
    assert runtime.resolve_algorithm() == "auto"


def test_a_policy_stays_in_its_thread():
    with fastconv.algorithm("direct"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(runtime.resolve_algorithm).result() == "auto"


def test_a_variable_sets_the_policy_of_a_process():
    code = "from fastconv import runtime; print(runtime.resolve_algorithm(), runtime.info()['algorithm'])"
    assert prints(code, FASTCONV_ALGORITHM="direct") == "direct direct"
    assert prints(code) == "auto auto"


def test_an_unknown_algorithm_raises():
    status, _, error = python("import fastconv", FASTCONV_ALGORITHM="fastest")
    assert status != 0
    assert f"ValueError: FASTCONV_ALGORITHM: algorithm must be one of {runtime.ALGORITHMS}, got 'fastest'" in error
    with pytest.raises(ValueError, match="got 'fastest'"), fastconv.algorithm("fastest"):
        pass


def test_info_says_what_runs():
    info = runtime.info()
    assert info["openmp"].split(",")[0] in ("GNU libgomp", "LLVM libomp")
    assert info["fastconv"] == fastconv.__version__
    assert info["isa"].startswith(runtime.get_isa())
    assert info["threads"].startswith(str(fastconv.get_num_threads()))
    assert all(isinstance(value, str) and value for value in info.values())
