"""onnx's own tests of backends, by its own runner: every operator's node cases, PyTorch's exports, nine networks."""

import os
import warnings

import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

import onnx.backend.test

from fastconv.backends.onnx import Backend

pytestmark = pytest.mark.isa_independent

# What onnx's reference evaluator, which runs these operators, cannot do: its own run of these cases fails alike.
BEYOND_THE_EVALUATOR = (
    "test_bernoulli",  # draws that the stored outputs are one outcome of
    "test_gradient_of_",  # Gradient, of training
    "test_if_opt_",
    "test_loop16_seq_none_",
    "test_range_.*_delta_expanded_",  # Range as a Loop
    "test_scan_sum_",  # Scan of opset 8
)
# Computed in float32 and rounded once, ours is an ulp of float16 away where the stored output was rounded at each step.
HALF_PRECISION = {"test_attention_4d_causal_fp16_expanded": {"rtol": 2 * 2.0**-10}}


def of_this_machine(cases):
    """The runner's cases without those of other devices and those that are excluded, which it would skip one by one."""
    for case in cases.values():
        for name in [name for name in vars(case) if name.startswith("test_")]:
            if name.endswith("_cuda") or getattr(vars(case)[name], "__unittest_skip__", False):
                delattr(case, name)
    return cases


@pytest.fixture(autouse=True, scope="module")
def folder_of_models(tmp_path_factory):
    """Where the runner copies the networks that lie in onnx's wheel, in place of the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNX_HOME", os.fspath(tmp_path_factory.mktemp("onnx")))
        patch.delenv("ONNX_MODELS", raising=False)
        yield


class ChannelsFirst(Backend):
    @classmethod
    def prepare(cls, model, device="CPU", **options):
        return super().prepare(model, device, data_format="channels_first", **options)


def every_case(backend):
    with warnings.catch_warnings():  # NumPy's, of cases about overflow, as they are made
        warnings.simplefilter("ignore")
        runner = onnx.backend.test.BackendTest(backend, __name__, test_kwargs=HALF_PRECISION)
    for pattern in BEYOND_THE_EVALUATOR:
        runner.exclude(pattern)
    return of_this_machine(runner.test_cases)


globals().update(every_case(Backend))
globals().update({f"{name}ChannelsFirst": case for name, case in every_case(ChannelsFirst).items()})
