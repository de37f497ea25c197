"""What `explain_plan` says is what is planned and allocated, and stays within its budgets."""

from itertools import product

import numpy as np
import pytest
from cases import (
    CONV,
    CONV_TRANSPOSE,
    DTYPES,
    LARGE_CONV,
    LARGE_CONV_TRANSPOSE,
    LAYOUTS,
    Conv,
    ConvTranspose,
    Tile,
    laid_out,
    multiply_adds,
)
from conftest import MANY, each, using_threads
from convolutions import operands, operator
from fastconv.kernels.direct import DirectPlan
from fastconv.kernels.grouped import GroupedPlan
from fastconv.kernels.winograd import WinogradPlan

import fastconv
import fastconv.functional as ff
from fastconv import explain_plan, runtime
from fastconv.benchmarks.layer import padding_argument
from fastconv.benchmarks.shapes import LAYERS
from fastconv.choice import MARGIN
from fastconv.functional.conv import conv_plan
from fastconv.functional.transposed import conv_transpose_plan
from fastconv.kernels import core
from fastconv.kernels.depthwise import DepthwiseLines

ALGORITHMS = {DepthwiseLines: "depthwise", DirectPlan: "direct", GroupedPlan: "grouped", WinogradPlan: "winograd"}
CASES = {f"conv: {name}": case for name, case in CONV.items()}
CASES |= {f"transposed: {name}": case for name, case in CONV_TRANSPOSE.items()}
CASES |= {
    "winograd": lambda t: Conv((2, 64, 30, 29), (64, 64, 3, 3), padding=1),
    "winograd-3d": lambda t: Conv((1, 64, 8, 16, 16), (64, 64, 3, 3, 3), padding=1),
    "winograd-transposed": lambda t: ConvTranspose((2, 64, 30, 29), (64, 64, 4, 4), padding=1, stride=2),
    "grouped": lambda t: Conv((2, 32, 30, 29), (32, 4, 3, 3), padding=1, groups=8),
    "depthwise-large": lambda t: Conv((2, 64, 30, 29), (64, 1, 3, 3), padding=1, groups=64),
}
FULL = ("winograd", "winograd-3d", "winograd-transposed", "grouped", "depthwise-large", "conv: 2d", "conv: circular")
FULL += ("conv: threaded-grouped", "transposed: threaded")


def explained(case, layout, dtype="float32", **options):
    """The explanation of a case."""
    shape = np.empty(0).reshape(case.x) if 0 in case.x else np.broadcast_to(0, case.x)
    x = shape.shape if layout == "channels_first" else np.moveaxis(shape, 1, -1).shape
    transposed = isinstance(case, ConvTranspose)
    return explain_plan(
        x, case.weight, data_format=layout, dtype=dtype, transposed=transposed, **(case.options | options)
    )


def planned(case, layout, algorithm):
    """The plan that a call of the case's operator takes, and its kernel of that call."""
    x, weight, _, _ = operands(case, "float32", layout)
    o = case.options
    if isinstance(case, ConvTranspose):
        plan = conv_transpose_plan(
            case.ndim, x, weight, None, o["stride"], o["padding"], o["output_padding"], o["groups"], o["dilation"],
            layout, algorithm,
        )  # fmt: skip
        return plan, plan.backward_input
    plan = conv_plan(
        case.ndim, x, weight, None, o["stride"], o["padding"], o["dilation"], o["groups"], o["padding_mode"],
        layout, algorithm,
    )  # fmt: skip
    return plan, plan.forward


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_the_algorithm_is_that_of_the_kernel(name, layout):
    case = CASES[name](Tile.current("float32"))
    for policy in runtime.ALGORITHMS:
        explanation = explained(case, layout, algorithm=policy)
        kernel = planned(case, layout, policy)[1]
        assert explanation.algorithm == ALGORITHMS[type(kernel)]
        assert policy in ("auto", explanation.algorithm) or explanation.algorithm == "direct"
        assert (explanation.reason == "asked for") == (policy == explanation.algorithm)
        assert explanation.definition_multiply_adds == multiply_adds(case)
        assert explanation.multiply_adds == int(kernel.multiply_adds)
        if policy == "auto" and explanation.costs:
            pays = explanation.costs.winograd < MARGIN * explanation.costs.direct
            assert (explanation.algorithm == "winograd") == pays


@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_tasks_make_up_the_multiply_adds(name, layout):
    """Those of the direct kernel, however many threads share them: packing is in steps of its own."""
    kernel = planned(CASES[name](Tile.current("float32")), layout, "direct")[1]
    for threads in (1, 16, 64):
        products = [step.sum() for step in kernel.tasks(threads)]
        phases = len(kernel.packing)
        assert sum(products) >= kernel.multiply_adds
        assert sum(products) == kernel.multiply_adds or len(products) > phases


@pytest.mark.parametrize(
    ("x", "weight", "options", "reason"),
    [
        ((1, 64, 56, 56), (64, 64, 3, 3), {}, "winograd: it costs less than 0.95 times"),
        ((2, 256, 7, 7), (256, 256, 3, 3), {"padding": 1}, "direct: Winograd does not cost less"),
        ((1, 64, 56, 56), (64, 64, 1, 1), {}, "direct: no Winograd: an axis has not 2 to 5 taps"),
        ((1, 64, 56, 56), (64, 64, 3, 3), {"stride": 2}, "direct: Winograd does not cost less than 0.95"),
        ((1, 3, 56, 56), (64, 3, 3, 3), {}, "direct: no Winograd: fewer than 16 channels a group"),
        ((1, 16, 16, 32, 32), (64, 16, 3, 3, 3), {}, "direct: no Winograd: it rounds too coarsely in 3-D for sums"),
        ((1, 64, 16, 32, 32), (64, 64, 5, 5, 5), {}, "it rounds too coarsely in 3-D for more than 4 taps"),
        ((1, 8, 9, 9), (8, 1, 3, 3), {"groups": 8}, "depthwise: one input channel a group"),
        ((1, 1, 9, 9), (1, 1, 3, 3), {}, "depthwise: one channel in and out"),
        ((1, 8, 9, 9), (8, 1, 3, 3), {"groups": 8, "algorithm": "direct"}, "direct: asked for"),
        ((1, 4, 9, 9), (8, 4, 3, 3), {"algorithm": "depthwise"}, "but a group has several input channels"),
        ((1, 9, 9, 64), (64, 4, 3, 3), {"groups": 16, "data_format": "channels_last"}, "grouped: groups of few"),
        ((1, 64, 9, 9), (64, 4, 3, 3), {"groups": 16, "algorithm": "grouped"}, "but channels_first packs lines"),
        ((1, 64, 9, 9, 9), (64, 64, 3, 3, 3), {"stride": 2}, "points of strides in 3-D are too many"),
        ((1, 64, 9, 9), (64, 64, 3, 3), {"stride": 3, "algorithm": "winograd"}, "2 to 5 taps a component"),
        ((8, 56, 56, 64), (64, 64, 5, 5), {"stride": 2, "data_format": "channels_last"}, "winograd: it costs less"),
        ((1, 8, 9, 9), (8, 1, 3, 3), {"groups": 8, "direction": "backward_weight"}, "depthwise: one input channel"),
        ((1, 64, 9, 9), (64, 64, 2, 2), {"stride": 3, "transposed": True}, "no Winograd: some outputs meet no tap"),
    ],
)
@pytest.mark.isa_independent
def test_reasons(x, weight, options, reason):
    explanation = explain_plan(x, weight, **options)
    assert reason in f"{explanation.algorithm}: {explanation.reason}"
    assert (explanation.costs is None) == ("cost" not in reason)


def test_a_weight_packed_ahead_counts():
    layer = (2, 256, 7, 7), (256, 256, 3, 3)
    assert explain_plan(*layer, padding=1).algorithm == "direct"
    assert explain_plan(*layer, padding=1, prepared=True).algorithm == "winograd"


@pytest.mark.isa_independent
def test_error_classes():
    layer = (1, 64, 56, 56), (64, 64, 3, 3)
    assert explain_plan(*layer, algorithm="direct").error == "sums of the definition's products"
    assert "within four times" in explain_plan(*layer).error
    coarse = explain_plan((1, 16, 18, 16, 16), (64, 16, 3, 3, 3), algorithm="winograd")
    assert (coarse.algorithm, "not held" in coarse.error) == ("winograd", True)
    assert coarse.points == ((6, 6, 6),)
    assert explain_plan((1, 200, 4, 16, 16), (64, 200, 3, 3, 3), algorithm="winograd").points == ((4, 6, 6),)


def blocks(*sizes):
    """What blocks of these sizes keep in the workspace, whole pages each."""
    return sum(-(-size // 4096) * 4096 for size in sizes)


@pytest.mark.parametrize("threads", [1, 2])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", [name for name in FULL if name != "grouped"])  # whose packing has scratch of its own
def test_a_call_allocates_its_budget(name, layout, threads):
    case = CASES[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    out = laid_out(np.zeros(case.y), layout, "float32")
    with using_threads(threads):
        explanation = explained(case, layout)
        runtime.trim()
        operator(ff, case)(x, weight, bias, data_format=layout, out=out, **case.options)
        budget = explanation.budget
        slack = 0 if explanation.algorithm == "depthwise" else 64
        assert core.idle_workspace_bytes() == blocks(budget.workspace, budget.packed + slack if budget.packed else 0)
        assert explanation.threads <= threads
        assert budget.workspace == explanation.threads * budget.thread + budget.shared
        assert (budget.output, budget.output_pooled) == (out.nbytes, out.nbytes >= 32 << 10)


@pytest.mark.parametrize("threads", [1, 2])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FULL)
def test_a_plan_allocates_its_budget(name, layout, threads):
    case = CASES[name](Tile.current("float32"))
    x, weight, bias, _ = operands(case, "float32", layout)
    out = laid_out(np.zeros(case.y), layout, "float32")
    plan = getattr(fastconv, f"plan_{operator(ff, case).__name__}")(
        x.shape, weight, bias, data_format=layout, **case.options
    )
    with using_threads(threads):
        runtime.trim()
        plan(x, out=out)
        budget = plan.explain().budget
        assert core.idle_workspace_bytes() == blocks(budget.workspace, budget.packed - plan.packed_bytes)


@pytest.mark.parametrize("threads", [1, 2])
@each(layout=LAYOUTS)
@pytest.mark.parametrize("name", FULL)
def test_a_weight_gradient_allocates_its_budget(name, layout, threads):
    case = CASES[name](Tile.current("float32"))
    x, weight, _, grad_y = operands(case, "float32", layout)
    need = (False, True, False)
    with using_threads(threads):
        explanation = explained(case, layout, direction="backward_weight")
        runtime.trim()
        options = {"data_format": layout, "need": need, **case.options}
        operator(ff, case, "_backward")(grad_y, x, weight, **options)
        budget = explanation.budget
        apart = explanation.algorithm in ("depthwise", "grouped")
        sizes = (budget.workspace, budget.partial_sums) if apart else (budget.workspace + budget.partial_sums,)
        assert core.idle_workspace_bytes() == blocks(*sizes)
        assert (budget.packed, budget.output, budget.output_pooled) == (0, weight.nbytes, False)


# Winograd's points of many channels: FEWEST_TILES tiles, 36 points of 1024 and more or 144 and more of 256 in 3-D.
OVER_BUDGET = {
    "deeplabv3/aspp_d6", "deeplabv3/aspp_d12", "unet/down5a", "unet/down5b", "unet/up4a", "c3d/conv3a", "c3d/conv3b",
    "c3d/conv4a", "c3d/conv4b", "r3d18/layer3", "dcgan/conv2",
}  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_cases_that_others_run_on_one_thread_alone_take_no_team(direction, isa):
    small = [CONV[name] for name in CONV if name not in LARGE_CONV]
    small += [CONV_TRANSPOSE[name] for name in CONV_TRANSPOSE if name not in LARGE_CONV_TRANSPOSE]
    with using_threads(MANY):
        for sized, dtype, layout in product(small, DTYPES, LAYOUTS):
            case = sized(Tile.current(dtype))
            assert explained(case, layout, dtype, direction=direction).threads == 1, case


def layer_budgets(layer, layout, **options):
    """Budgets of all directions of a layer, with its weight packed ahead or not."""
    case = ConvTranspose if layer.operator == "conv_transpose" else Conv
    more = {"output_padding": layer.output_padding} if case is ConvTranspose else {}
    case = case(
        layer.x_shape, layer.weight_shape, layer.stride, padding_argument(layer), groups=layer.groups,
        dilation=layer.dilation, **more,
    )  # fmt: skip
    how = [{"prepared": True}, *({"direction": d} for d in ("forward", "backward_input", "backward_weight"))]
    return [explained(case, layout, **one, **options).budget for one in how]


@each(layout=LAYOUTS)
def test_eight_megabytes_a_thread_are_enough_and_sixteen_for_weight_gradients(layout):
    over = set()
    for layer in LAYERS:
        for threads in (1, 2) if not (layer.pools or layer.deforms) else ():
            with using_threads(threads):
                *budgets, gradient = layer_budgets(layer, layout)
                assert gradient.workspace <= threads * (16 << 20)
                if max(b.workspace for b in budgets) > threads * (8 << 20):
                    over.add(f"{layer.network}/{layer.layer}")
    assert over <= OVER_BUDGET


@each(dtype=DTYPES, layout=LAYOUTS)
@pytest.mark.parametrize("name", FULL)
def test_budgets_do_not_grow_with_the_batch(name, layout, dtype):
    case = CASES[name](Tile.current(dtype))
    for direction in ("forward", "backward_input", "backward_weight"):
        budgets = [
            explained(type(case)((batch, *case.x[1:]), case.weight, **case.options), layout, dtype, direction=direction)
            for batch in (256, 2048)  # both fill the largest blocks
        ]
        few, many = (e.budget.thread + e.budget.shared for e in budgets)
        assert many <= 1.1 * few + 4096
        assert many <= (16 << 20 if direction == "backward_weight" else 8 << 20)
        assert max(e.budget.partial_sums for e in budgets) <= 20 << 20


@pytest.mark.parametrize("transposed", [False, True])
@each(data_format=LAYOUTS)
def test_a_plan_explains_itself(data_format, transposed):
    plan_conv = fastconv.plan_conv_transpose2d if transposed else fastconv.plan_conv2d
    x = (2, 64, 30, 30) if data_format == "channels_first" else (2, 30, 30, 64)
    weight = np.ones((64, 64, 3, 3), np.float32)
    plan = plan_conv(x, weight, padding=1, data_format=data_format)
    options = {"padding": 1, "data_format": data_format, "transposed": transposed}
    assert plan.explain() == explain_plan(x, weight.shape, prepared=True, **options)
    assert plan.explain().algorithm == "winograd"
    assert plan.explain().direction == "forward"
    assert plan.explain().budget.packed == plan.packed_bytes
    assert plan.explain().budget.kept == plan.packed_bytes + weight.nbytes
    assert explain_plan(x, weight.shape, **options).budget.kept == 0


def test_an_x_without_a_batch_axis_and_one_padded_with_itself():
    assert explain_plan((64, 9, 8), [6, 64, 3, 3]) == explain_plan((1, 64, 9, 8), (6, 64, 3, 3))
    folded = explain_plan((1, 4, 9, 8), (6, 4, 3, 3), padding=1, padding_mode="reflect", direction="backward_input")
    assert folded.budget.padded == 4 * 4 * 11 * 10
    assert folded.budget.output == 4 * 4 * 9 * 8


def test_the_text_tells_all():
    text = str(explain_plan((1, 64, 56, 56), (64, 64, 3, 3), padding=1, prepared=True))
    for line in ("winograd: it costs", "points", "6 x 6", "within four times", "workspace", "kept", runtime.get_isa()):
        assert line in text
    layer = (8, 64, 56, 56), (64, 64, 3, 3)
    text = str(explain_plan(*layer, direction="backward_weight"))
    for line in ("winograd: it costs", "6 x 6", "partial sums", "not finite"):
        assert line in text
    text = str(explain_plan(*layer, direction="backward_weight", algorithm="direct"))
    assert "partial sums" in text
    assert "not finite" not in text


@pytest.mark.parametrize(
    ("x", "weight", "options", "kind", "message"),
    [
        ((2, 3, 9, 8), (6, 4, 3, 3), {}, ValueError, r"weight.shape\[1\] must be"),
        ((2, 4, 9.0, 8), (6, 4, 3, 3), {}, TypeError, "x_shape must be a tuple of integers"),
        ((2, 4, 9, 8), 3, {}, TypeError, "weight_shape must be a tuple of integers, got weight_shape=3"),
        ((2, 4, 9, 8), (6, 4), {}, ValueError, "weight_shape must be .* got weight_shape=\\(6, 4\\)"),
        ((4, 9), (6, 4, 3, 3), {}, ValueError, "x must have 4 dimensions, or 3 without a batch"),
        ((2, 4, -9, 8), (6, 4, 3, 3), {}, ValueError, "x.shape"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"stride": 0}, ValueError, "stride"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"algorithm": "fft"}, ValueError, "algorithm must be"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"dtype": "int8"}, TypeError, "dtype must be float32 .* got dtype='int8'"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"dtype": "half?"}, TypeError, "dtype must be float32 or float64"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"direction": "back"}, ValueError, "direction must be 'forward'"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"transposed": 1}, TypeError, "transposed must be"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"output_padding": 1}, ValueError, "output_padding must be 0"),
        ((2, 4, 9, 8), (4, 4, 3, 3), {"transposed": True, "padding_mode": "reflect"}, ValueError, "padding_mode must"),
        ((2, 4, 9, 8), (6, 4, 3, 3), {"prepared": True, "direction": "backward_weight"}, ValueError, "prepared must"),
    ],
)
@pytest.mark.isa_independent
def test_what_cannot_be_explained(x, weight, options, kind, message):
    with pytest.raises(kind, match=message):
        explain_plan(x, weight, **options)
