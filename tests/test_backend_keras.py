"""Keras's NumPy backend on fastconv: the same results, what it declines, packed kernels, and Keras's own tests."""

import gc
import itertools
import json
import os
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from processes import HANGS
from tolerance import assert_within, bound

import fastconv
from fastconv.backends import keras as backend
from fastconv.benchmarks import keras_ratio
from fastconv.benchmarks.engines import EngineError
from fastconv.extras import MissingExtraError
from fastconv.functional.planned import PlannedConv

pytestmark = pytest.mark.isa_independent

OPERATORS = ("conv", "depthwise_conv", "separable_conv", "conv_transpose", "max_pool", "average_pool")
LAYOUTS = ("channels_last", "channels_first")
SIZES = {1: (13,), 2: (11, 12), 3: (5, 8, 7)}
KERNELS = {1: (3,), 2: (4, 3), 3: (2, 3, 1)}
WINDOWS = ({}, {"strides": 2}, {"strides": 3}, {"dilation_rate": 2}, {"strides": 2, "dilation_rate": 3})


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Keras takes seconds to import, for which nobody should wait but who runs these tests."""
    global jax, keras, nn, OWN
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    jax = pytest.importorskip("jax", reason="Keras's NumPy backend imports JAX, which is not installed")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    if keras.config.backend() != "numpy":
        pytest.skip("KERAS_BACKEND asks for another backend")
    nn = import_module("keras.src.backend.numpy.nn")
    OWN = {name: getattr(nn, name) for name in OPERATORS}


@pytest.fixture(autouse=True)
def disabled_afterwards():
    yield
    backend.disable()


@pytest.fixture
def declines(monkeypatch):
    """Names of the operators that were left to Keras."""
    names = []

    def own(name):
        names.append(name)
        return OWN[name]

    monkeypatch.setattr(backend, "_keras_own", own)
    return names


def draw(*shape, dtype="float32"):
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(dtype)


def images(ndim):
    return draw(2, *SIZES[ndim], 6)


def both(name, *arrays, **options):
    """What fastconv makes of these arguments, and what Keras does."""
    expected = OWN[name](*arrays, **options)
    with backend.enable():
        return getattr(nn, name)(*arrays, **options), expected


def same(results, terms, *arrays):
    """Two sums of so many products of the arrays' elements, in float32 (versions of Keras divide in 64 bits)."""
    ours, expected = results
    factors = [np.abs(a).max(initial=1) for a in arrays]
    assert_within(ours, expected, 2 * bound(np.float32, terms, np.prod(factors), np.ones(1)), np.float32)
    assert ours.flags.writeable


def channels_first(a):
    return np.moveaxis(a, -1, 1)


def in_both_layouts(name, x, *others, **options):
    """The same with x channels last and first; Keras compiles its own but once."""
    ours, expected = both(name, x, *others, **options)
    with backend.enable():
        turned = getattr(nn, name)(channels_first(x), *others, data_format="channels_first", **options)
    return [(ours, expected), (turned, channels_first(expected))]


RANKS_AND_PADDINGS = list(itertools.product((1, 2, 3), ("valid", "same")))


@pytest.mark.parametrize(("ndim", "padding"), RANKS_AND_PADDINGS)
def test_conv_is_keras_s(ndim, padding, declines):
    x = images(ndim)
    for window, inputs in [*zip(WINDOWS, (6, 3, 1, 6, 2), strict=True), ({}, 1)]:
        kernel = draw(*KERNELS[ndim], inputs, 12)
        for results in in_both_layouts("conv", x, kernel, padding=padding, **window):
            same(results, kernel[..., 0].size, x, kernel)
    assert not declines


@pytest.mark.parametrize(("ndim", "padding"), RANKS_AND_PADDINGS[:4])
def test_depthwise_and_separable_are_keras_s(ndim, padding, declines):
    x = images(ndim)
    pointwise = draw(*(1,) * ndim, 12, 5)
    for window in WINDOWS:
        kernel = draw(*KERNELS[ndim], 6, 2)
        depthwise = in_both_layouts("depthwise_conv", x, kernel, padding=padding, **window)
        separable = in_both_layouts("separable_conv", x, kernel, pointwise, padding=padding, **window)
        taps = kernel[..., 0, 0].size
        for results, results_of_two in zip(depthwise, separable, strict=True):
            same(results, taps, x, kernel)
            same(results_of_two, 12 * taps, x, kernel, pointwise)
    assert not declines


@pytest.mark.parametrize(("ndim", "padding"), RANKS_AND_PADDINGS)
def test_transposed_is_keras_s(ndim, padding, declines):
    x, kernel = images(ndim), draw(*KERNELS[ndim], 4, 6)
    cases = [*zip(WINDOWS, (None, 1, None, 0, 1), strict=True), ({"strides": 5}, None), ({"strides": 2}, 0)]
    for window, output_padding in cases:
        options = {"padding": padding, "output_padding": output_padding, **window}
        for results in in_both_layouts("conv_transpose", x, kernel, **options):
            same(results, kernel[..., 0, :].size, x, kernel)
    assert not declines


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_transposed_axes_of_every_kind_are_keras_s(padding, declines):
    kinds = itertools.product((1, 3), (1, 2, 3, 4), (1, 2, 3), (None, 0, [1]))  # sizes, taps, strides, output paddings
    for size, taps, stride, output_padding in kinds:
        x, kernel = draw(1, size, 1), draw(taps, 1, 1)
        options = {"strides": stride, "padding": padding, "output_padding": output_padding}
        same(both("conv_transpose", x, kernel, **options), taps, x, kernel)
    # Left to Keras: where as many positions as the stride are added (for "same" with 1 tap alone), in two sizes; and of
    # "same", where nothing is left of 1 input: 2 or 4 taps, 3 strides.
    assert len(declines) == {"valid": 4 * 2, "same": 1 * 2 + 2 * 3}[padding]


@pytest.mark.parametrize(("ndim", "padding"), RANKS_AND_PADDINGS)
def test_pools_are_keras_s(ndim, padding, declines):
    x, mixed = images(ndim), tuple(range(1, ndim + 1))
    for window, strides in ((1, 2), (2, 2), (3, 1), (3, 2), (mixed, 3), (2, mixed), (5, mixed[::-1])):
        for ours, expected in in_both_layouts("max_pool", x, window, strides, padding=padding):
            np.testing.assert_array_equal(ours, expected, strict=True)
        for results in in_both_layouts("average_pool", x, window, strides, padding=padding):
            same(results, 5**ndim, x)
    assert not declines


def test_axes_of_their_own_are_keras_s(declines):
    x, kernel = images(2), draw(3, 4, 6, 7)
    for options in ({"strides": (2, 1), "padding": "same"}, {"dilation_rate": [1, 2]}, {"padding": "SAME"}):
        same(both("conv", x, kernel, **options), kernel[..., 0].size, x, kernel)
    options = {"strides": (3, 2), "padding": "same", "output_padding": (0, 1)}
    kernel = draw(3, 4, 7, 6)
    same(both("conv_transpose", x, kernel, **options), 72, x, kernel)
    assert not declines


@pytest.mark.parametrize("dtypes", [("float64", "float64"), ("float32", "float64"), ("float64", "float32")], ids=str)
def test_float64_becomes_float32_as_in_keras(dtypes, declines):
    x, kernel = images(2).astype(dtypes[0]), draw(3, 3, 6, 6).astype(dtypes[1])
    for name in ("conv", "depthwise_conv", "conv_transpose"):
        same(both(name, x, kernel, padding="same"), 54, x, kernel)
    for name in ("max_pool", "average_pool"):
        same(both(name, x, 2, 2, "valid"), 4, x)
    assert not declines


def test_float64_is_keras_s_where_jax_has_64_bits(declines):
    x, kernel = images(2).astype(float), draw(3, 3, 6, 4).astype(float)
    jax.config.update("jax_enable_x64", True)
    try:
        ours, expected = both("conv", x, kernel)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert expected.dtype == np.float64
    np.testing.assert_array_equal(ours, expected, strict=True)
    assert declines == ["conv"]


def test_nan_infinity_and_an_empty_batch_are_keras_s(declines):
    x = images(2)
    x[0, 4, 4, 1], x[1, 2, 3, 0], x[1, 5, 5] = np.nan, np.inf, -np.inf
    for padding in ("valid", "same"):
        ours, expected = both("max_pool", x, 3, 2, padding)
        np.testing.assert_array_equal(ours, expected, strict=True)
        same(both("average_pool", x, 3, 2, padding), 9, np.nan_to_num(x, posinf=0, neginf=0))
        same(both("average_pool", x[:0], 3, 2, padding), 9, x[:0])
        same(both("conv", x[:0], draw(3, 3, 6, 2), padding=padding), 54, x[:0])
    assert not declines


def test_strides_of_a_pool_are_its_window_by_default():
    x = images(2)
    with backend.enable():
        for pool in (keras.ops.max_pool, keras.ops.average_pool):
            np.testing.assert_array_equal(pool(x, (3, 2)), pool(x, (3, 2), (3, 2)))


def test_data_format_is_keras_s_default(monkeypatch):
    x, kernel = draw(1, 4, 9, 9), draw(3, 3, 4, 2)
    before = keras.config.image_data_format()
    try:
        keras.config.set_image_data_format("channels_first")
        same(both("conv", x, kernel), 36, x, kernel)
    finally:
        keras.config.set_image_data_format(before)


def test_what_fastconv_has_no_kernel_for_is_keras_s(declines):
    x, kernel = images(2), draw(3, 3, 6, 2)
    for dtype in ("float16", "bfloat16", "int32", "int8"):
        ours, expected = both("conv", keras.ops.cast(x, dtype), keras.ops.cast(kernel, dtype))
        np.testing.assert_array_equal(ours, expected, strict=True)
        ours, expected = both("max_pool", keras.ops.cast(x, dtype), 2, 2, "valid")
        np.testing.assert_array_equal(ours, expected, strict=True)
        ours, expected = both("average_pool", keras.ops.cast(x, dtype), 2, 2, "valid")
        np.testing.assert_array_equal(ours, expected, strict=True)
    assert declines == ["conv", "max_pool", "average_pool"] * 4
    depthwise, pointwise = draw(3, 3, 6, 1).astype("float16"), draw(1, 1, 6, 2).astype("float16")
    ours, expected = both("separable_conv", x.astype("float16"), depthwise, pointwise)
    np.testing.assert_array_equal(ours, expected, strict=True)


@pytest.mark.parametrize(
    ("name", "arrays", "options"),
    [
        ("conv", (draw(1, 5, 5, 6), draw(3, 3, 4, 2)), {}),  # channels
        ("conv", (draw(1, 5, 5, 6), draw(3, 3, 3, 3)), {}),  # groups
        ("conv", (draw(5, 5, 6), draw(3, 3, 6, 2)), {}),
        ("conv", (draw(1, 5, 5, 6), draw(3, 3, 6, 2)), {"padding": "causal"}),
        ("conv", (draw(1, 5, 5, 6), draw(3, 3, 6, 2)), {"strides": (1, 2, 3)}),
        ("conv", (draw(1, 5, 5, 6), draw(3, 3, 6, 2)), {"data_format": "channels_middle"}),
        ("depthwise_conv", (draw(1, 5, 5, 6), draw(3, 3, 5, 2)), {}),
        ("separable_conv", (draw(1, 5, 5, 6), draw(3, 3, 6, 2), draw(1, 1, 11, 2)), {}),
        ("separable_conv", (draw(1, 5, 5, 6), draw(3, 3, 5, 2), draw(1, 1, 10, 2)), {}),
        ("conv_transpose", (draw(1, 5, 5, 6), draw(3, 3, 2, 5)), {}),
        ("conv_transpose", (draw(1, 5, 5, 6), draw(3, 3, 2, 6)), {"padding": "full"}),
        ("max_pool", (draw(1, 5, 5, 6), (2, 2), 2, "full"), {}),
        ("average_pool", (draw(1, 5, 5, 6), (2, 2, 2), 2), {}),
    ],
)
def test_errors_are_keras_s(name, arrays, options):
    with pytest.raises(Exception) as expected:  # noqa: PT011
        OWN[name](*arrays, **options)
    with backend.enable(), pytest.raises(type(expected.value)) as error:
        getattr(nn, name)(*arrays, **options)
    assert str(error.value) == str(expected.value)


def test_an_empty_result_is_keras_s_error_or_array():
    def outcome():
        try:
            return nn.conv(draw(1, 5, 5, 6), draw(7, 7, 6, 2)).shape
        except ValueError as error:
            return str(error)

    expected = outcome()
    with backend.enable():
        assert outcome() == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_input_is_not_copied(layout, monkeypatch):
    x, seen = np.ascontiguousarray(images(2) if layout == "channels_last" else channels_first(images(2))), []
    for name in ("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d"):
        operator = getattr(fastconv.functional, name)

        def spy(x, *args, _operator=operator, **kwargs):
            seen.append(x)
            return _operator(x, *args, **kwargs)

        monkeypatch.setattr(fastconv.functional, name, spy)
    with backend.enable():
        nn.conv(x, draw(3, 3, 6, 2), data_format=layout)
        nn.depthwise_conv(x, draw(3, 3, 6, 1), data_format=layout)
        nn.conv_transpose(x, draw(3, 3, 2, 6), data_format=layout)
        nn.max_pool(x, 2, 2, data_format=layout)
        nn.average_pool(x, 2, 2, data_format=layout)
    assert len(seen) == 5
    assert all(array is x for array in seen)


def test_enable_is_undone():
    assert not backend._own
    undo = backend.enable()
    ours = {name: getattr(nn, name) for name in OPERATORS}
    assert all(ours[name] is not OWN[name] for name in OPERATORS)
    with backend.enable():  # again: it was enabled, and stays so
        pass
    assert nn.conv is ours["conv"]
    undo.close()
    assert {name: getattr(nn, name) for name in OPERATORS} == OWN
    with backend.enable():
        assert nn.conv is ours["conv"]
    assert nn.conv is OWN["conv"]
    backend.disable()
    assert nn.conv is OWN["conv"]


def test_no_module_of_keras_keeps_the_operators_that_are_replaced():
    own = {id(operator) for operator in OWN.values()}
    with backend.enable():
        keeping = [
            f"{name}.{key}"
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] == "keras"
            for key, value in list(vars(module).items())
            if id(value) in own
        ]
    assert not keeping


class Packing:
    """Counts packs."""

    def __init__(self, monkeypatch):
        self.count = 0
        make = PlannedConv.__init__

        def count(plan, *args, **kwargs):
            self.count += 1
            make(plan, *args, **kwargs)

        monkeypatch.setattr(PlannedConv, "__init__", count)


@pytest.fixture
def packing(monkeypatch):
    return Packing(monkeypatch)


def network():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            keras.layers.DepthwiseConv2D(3, padding="same"),
            keras.layers.MaxPooling2D(2, padding="same"),
            keras.layers.SeparableConv2D(6, 2, padding="same"),
            keras.layers.AveragePooling2D(2, strides=1, padding="same"),
            keras.layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        ]
    )


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=50 * np.finfo(np.float32).eps * np.abs(expected).max())


def test_a_network_packs_each_kernel_once_a_shape(packing, declines):
    net, x = network(), draw(4, 16, 16, 3)
    expected = net(x)
    with backend.enable():
        for _ in range(3):
            close(net(x), expected)
        assert packing.count == 5
        close(net(x[:2]), expected[:2])
        assert packing.count == 10
        close(net.predict(x, batch_size=2, verbose=0), expected)
        assert packing.count == 10
    assert not declines


def test_without_packs_every_call_has_its_own_weight(packing):
    net, x = network(), draw(4, 16, 16, 3)
    expected = net(x)
    with backend.enable(pack=False):
        close(net(x), expected)
        assert packing.count == 0
        assert all(v.value.flags.writeable for v in net.variables)
        backend.enable(pack=True)
        close(net(x), expected)
        assert packing.count == 5
        backend.enable(pack=False)
        assert not backend._packs._kept
        assert all(v.value.flags.writeable for v in net.variables)


def test_a_packed_kernel_cannot_go_stale():
    layer, x = keras.layers.Conv2D(4, 3), draw(1, 8, 8, 2)
    with backend.enable():
        first = layer(x)
        with pytest.raises(ValueError, match="read-only"):
            layer.kernel.value[:] = 0
        layer.kernel.assign(2 * layer.kernel)
        close(layer(x), 2 * first)
        layer.set_weights([w / 2 for w in layer.get_weights()])
        close(layer(x), first)
    layer.kernel.value[:] = 0
    assert not layer(x).any()
    with backend.enable():
        assert not layer(x).any()


def test_packs_go_with_their_variable():
    layer, x = keras.layers.Conv2D(4, 3), draw(1, 8, 8, 2)
    with backend.enable():
        layer(x)
        assert len(backend._packs._kept) == 1
        kernel = weakref.ref(layer.kernel.value)
        layer.kernel.assign(layer.kernel.numpy())
        assert kernel() is None
        assert not backend._packs._kept
        layer(x)
        del layer
        gc.collect()
        assert not backend._packs._kept


def test_a_stateless_call_uses_the_values_given_and_leaves_them_writeable():
    net, x = network(), draw(1, 16, 16, 3)
    given = [2 * np.asarray(v) for v in net.trainable_variables]
    expected, _ = net.stateless_call(given, [], x)
    with backend.enable():
        net(x)
        y, _ = net.stateless_call(given, [], x)
        close(y, expected)
        assert all(array.flags.writeable for array in given)


@pytest.mark.parametrize("policy", ["float64", "mixed_float16", "bfloat16"])
def test_dtype_policies_are_keras_s(policy, packing, declines):
    layer, x = keras.layers.Conv2D(4, 3, dtype=policy), draw(1, 8, 8, 2)
    expected = layer(x)
    with backend.enable():
        for _ in range(2):
            y = layer(x)
            assert y.dtype == expected.dtype
            close(y.astype("float32"), expected.astype("float32"))
    assert bool(declines) == (policy != "float64")
    assert packing.count == (policy == "float64")


def test_another_backend_is_an_error(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="got 'torch'; set the environment variable KERAS_BACKEND=numpy"):
        backend.enable()
    assert not backend._own


@pytest.mark.parametrize("package", ["keras", "jax"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("keras", package)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"this needs {package}: pip install 'fastconv\[keras\]'"):
        backend.enable()


KERAS_TESTS = """
import json, sys
from collections import Counter
import pytest
import fastconv.backends.keras as backend

backend.enable()
calls = Counter()

def counted(function):
    def count(name, *args, **kwargs):
        y = function(name, *args, **kwargs)
        calls[name] += y is not None
        return y
    return count

backend._convolve, backend._pool = counted(backend._convolve), counted(backend._pool)
status = pytest.main(sys.argv[1:])
print(json.dumps({"status": int(status), "calls": calls}))
"""


def test_keras_s_own_tests_pass(tmp_path):
    source = Path(keras.__file__).parent / "src"
    files = [source / name for name in ("ops/nn_test.py", "layers/convolutional", "layers/pooling")]
    if not all(path.exists() for path in files):
        pytest.skip("this Keras came without its tests")
    settings = tmp_path / "pytest.ini"  # not Keras's own, nor ours
    settings.write_text("[pytest]\n")
    options = ["-q", "-c", str(settings), f"--rootdir={tmp_path}", "-p", "no:cacheprovider", "-p", "no:xdist"]
    options += ["-W", "ignore", "-k", "conv or pool"]
    options += ["-m", "not requires_trainable_backend"]  # which NumPy's is not
    code = f"import sys; sys.path[:0] = {[str(Path(fastconv.__file__).parents[1])]!r}\n{KERAS_TESTS}"
    run = subprocess.run(
        [sys.executable, "-c", code, *options, *map(str, files)],
        cwd=tmp_path, env=os.environ | {"KERAS_BACKEND": "numpy"}, capture_output=True, text=True, timeout=2 * HANGS,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *report, last = run.stdout.splitlines()
    outcome = json.loads(last)
    assert outcome["status"] == 0, "\n".join(report) + run.stderr
    assert outcome["calls"]["conv"] > 200
    assert outcome["calls"]["conv_transpose"] > 100
    assert min(outcome["calls"]["max_pool"], outcome["calls"]["avg_pool"]) > 20


class Here:
    """Stands in for an engine's process, which takes seconds to start: both of the benchmark's run in this one."""

    call = None

    def __init__(self, name, threads):
        pass

    def run(self, function, *arguments):
        module, _, name = function.partition(":")
        arguments = pickle.loads(pickle.dumps(arguments))
        return getattr(import_module(f"fastconv.benchmarks.{module}"), name)(self, *arguments)

    def close(self):
        pass


def test_the_benchmark_compares_and_times_both(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(keras_ratio, "Engine", Here)
    path = tmp_path / "rows.json"
    keras_ratio.main(["--filter", "^max 2x2", "--rounds", "3", "--seconds", "0.001", "--json", str(path), "--markdown"])
    shown = capsys.readouterr().out
    assert "| max 2x2 | 8x56x56x256 |" in shown
    assert "geometric mean of the ratios: " in shown
    measured = json.loads(path.read_text())
    assert measured["environment"]["keras"] == keras.__version__
    (row,) = measured["rows"]
    assert row["keras"]["median"] > 0
    assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]


def test_the_benchmark_times_no_wrong_result(monkeypatch):
    monkeypatch.setattr(keras_ratio, "Engine", Here)
    monkeypatch.setattr(fastconv.functional, "max_pool2d", lambda x, *args, **options: x[:, ::2, ::2])
    with pytest.raises(EngineError, match=r"max 2x2: the results are .* apart"):
        keras_ratio.main(["--filter", "^max 2x2"])


def test_the_benchmark_knows_its_cases(capsys):
    with pytest.raises(SystemExit, match="2"):
        keras_ratio.main(["--filter", "quantum"])
    assert "--filter matches none of the cases, which are conv 7x7 stride 2," in capsys.readouterr().err


def test_threads_share_a_layer():
    layer, x = keras.layers.Conv2D(8, 3), draw(2, 20, 20, 4)
    expected = layer(x)
    with backend.enable(), ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: layer(x), range(64)):
            close(y, expected)
