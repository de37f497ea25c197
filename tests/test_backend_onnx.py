"""ONNX sessions and the backend interface: what goes in and comes out, and what each mistake says."""

import threading

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'fastconv[onnx]'")

import onnx
from onnx import helper
from onnx_models import FLOAT, declared, model, node, normal

import fastconv as fc
from fastconv.backends import onnx as backend
from fastconv.backends.onnx import Backend, ModelError, Session

pytestmark = pytest.mark.isa_independent

X = normal(2, 3, 8, 8)
WEIGHT, BIAS = normal(4, 3, 3, 3, seed=1), normal(4, seed=2)


def convolution(**attributes):
    """y = relu(conv(x)), with a second output that is the convolution alone."""
    nodes = [node("Conv", "x w b", "c", name="first", **attributes), node("Relu", "c", "y")]
    outputs = [helper.make_tensor_value_info(name, FLOAT, ["batch", 4, "rows", None]) for name in ("y", "c")]
    return model(nodes, [declared("x", X, ("batch", 3, 8, "width"))], outputs, {"w": WEIGHT, "b": BIAS})


def expected(x, **options):
    return fc.conv2d(x, WEIGHT, BIAS, **options)


# Sessions.


@pytest.fixture(params=["path", "bytes", "proto"])
def source(request, tmp_path):
    proto = convolution()
    onnx.save(proto, tmp_path / "model.onnx")
    return {"path": tmp_path / "model.onnx", "bytes": proto.SerializeToString(), "proto": proto}[request.param]


def test_a_session_runs_from_each_source(source):
    y, c = Session(source).run(None, {"x": X})
    np.testing.assert_allclose(c, expected(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y, np.maximum(c, 0))


def test_run_takes_output_names_in_their_order():
    session = Session(convolution())
    c, y, again = session.run(["c", "y", "c"], {"x": X})
    np.testing.assert_array_equal(y, np.maximum(c, 0))
    assert again is c


def test_run_takes_feeds_alone():
    session = Session(convolution())
    for short, whole in zip(session.run({"x": X}), session.run(None, {"x": X}), strict=True):
        np.testing.assert_array_equal(short, whole)


def test_inputs_and_outputs_are_described_as_onnx_runtime_does():
    session = Session(convolution())
    (x,) = session.get_inputs()
    assert (x.name, x.shape, x.type) == ("x", ["batch", 3, 8, "width"], "tensor(float)")
    assert [(y.name, y.shape) for y in session.get_outputs()] == [
        (name, ["batch", 4, "rows", None]) for name in ("y", "c")
    ]


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (5, 3, 8, 8), (1, 3, 8, 20), (2, 3, 8, 5), (3, 3, 8, 4)])
def test_a_session_takes_one_shape_after_the_other(shape):
    session = Session(convolution(pads=[1, 0, 0, 2]))
    for x in (X, normal(*shape), X):
        _, c = session.run({"x": x})
        np.testing.assert_allclose(c, expected(x, padding=((1, 0), (0, 2))), rtol=1e-5, atol=1e-5)


def test_results_are_the_callers_own():
    """Neither a view of an input or a constant, nor memory that the next run takes."""
    nodes = [node("Reshape", "x shape", "flat"), node("Identity", "k", "copy"), node("Transpose", "x", "turned")]
    proto = model(nodes, {"x": X}, "flat copy turned", {"shape": np.array([2, -1]), "k": np.arange(3.0)})
    session = Session(proto)
    before = X.copy()
    first = session.run({"x": X})
    assert all(y.flags.c_contiguous and y.flags.writeable for y in first)
    assert not any(np.shares_memory(y, X) for y in first)
    for y in first:
        y.fill(-1)
    np.testing.assert_array_equal(X, before)
    flat, copy, turned = session.run({"x": X})
    np.testing.assert_array_equal(flat, X.reshape(2, -1))
    np.testing.assert_array_equal(copy, np.arange(3.0))
    np.testing.assert_array_equal(turned, X.T)


def test_an_empty_batch():
    nodes = [
        node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("MaxPool", "r", "p", kernel_shape=[2, 2]),
        node("BatchNormalization", "p k k b k", "n"), node("GlobalAveragePool", "n", "g"), node("Flatten", "g", "f"),
        node("MatMul", "f m", "y"),
    ]  # fmt: skip
    constants = {"w": WEIGHT, "b": BIAS, "k": np.abs(BIAS), "m": normal(4, 5)}
    session = Session(model(nodes, [declared("x", X, ("batch", 3, 8, 8))], "y", constants))
    for batch in (2, 0, 1):
        assert session.run({"x": normal(batch, 3, 8, 8)})[0].shape == (batch, 5)


def test_inputs_as_they_lie():
    """Views, gaps, channels last, and memory that may not be written."""
    session = Session(convolution())
    last = np.ascontiguousarray(X.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    gaps = np.repeat(np.repeat(X, 2, axis=2), 3, axis=3)[:, :, ::2, ::3]
    locked = X.copy()
    locked.flags.writeable = False
    for x in (last, gaps, locked, X[::-1][::-1]):
        np.testing.assert_allclose(session.run({"x": x})[1], expected(X), rtol=1e-5, atol=1e-5)


def test_many_threads_run_one_session():
    session = Session(convolution())
    inputs = [normal(1 + i % 3, 3, 8, 8, seed=i) for i in range(24)]
    results = [None] * len(inputs)

    def work(first):
        for i in range(first, len(inputs), 4):
            results[i] = session.run(["c"], {"x": inputs[i]})[0]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, c in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(c, session.run(["c"], {"x": x})[0])


def test_a_profile_has_a_timing_a_step():
    profile = Session(convolution()).profile({"x": X}, runs=2)
    assert [t.operator for t in profile.timings] == ["Conv", "Relu"]
    assert profile.timings[0].name == "Conv 'first'"
    assert profile.timings[0].plan.startswith(fc.explain_plan(X.shape, WEIGHT.shape, prepared=True).algorithm)
    assert profile.timings[0].shape == (2, 4, 6, 6)
    assert sum(timing.seconds for timing in profile.timings) > 0
    assert profile.seconds > 0
    np.testing.assert_array_equal(profile.outputs[0], np.maximum(profile.outputs[1], 0))


def test_functions_and_subgraphs_run():
    """A function of the model's own, called in a branch of an If, which reads a value from around it."""
    body = [node("Conv", "x w", "c"), node("Relu", "c", "y")]
    function = helper.make_function("mine", "Block", ["x", "w"], ["y"], body, [helper.make_opsetid("", 22)])
    call = helper.make_node("Block", ["x", "w"], ["then"], domain="mine")
    branches = {
        "then_branch": helper.make_graph([call], "then", [], [declared("then")]),
        "else_branch": helper.make_graph([node("Neg", "x", "else")], "else", [], [declared("else")]),
    }
    proto = model([node("If", "flag", "y", **branches)], {"flag": np.array(True), "x": X}, "y", {"w": WEIGHT},
                  functions=[function], mine=1)  # fmt: skip
    session = Session(proto)
    (y,) = session.run({"flag": np.array(True), "x": X})
    np.testing.assert_allclose(y, fc.conv2d(X, WEIGHT, activation="relu"), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(session.run({"flag": np.array(False), "x": X})[0], -X)


def test_a_subgraph_runs_on_our_kernels():
    """A NaN in a max pool, which onnx's reference evaluator passes over."""
    x = X.copy()
    x[0, 0, 1, 1] = np.nan
    pool = helper.make_graph(
        [node("MaxPool", "x", "p", kernel_shape=[2, 2], strides=[2, 2])], "then", [], [declared("p")]
    )
    other = helper.make_graph([node("Identity", "x", "q")], "else", [], [declared("q")])
    proto = model([node("If", "flag", "y", then_branch=pool, else_branch=other)], {"flag": np.array(True), "x": x}, "y")
    (y,) = Session(proto).run({"flag": np.array(True), "x": x})
    np.testing.assert_array_equal(y, fc.max_pool2d(x, 2))
    assert np.isnan(y[0, 0, 0, 0])


def test_strings_and_sequences_run():
    names = helper.make_tensor_value_info("names", onnx.TensorProto.STRING, [2])
    nodes = [node("Concat", "names names", "twice", axis=0), node("SequenceConstruct", "twice", "y")]
    ((y,),) = Session(model(nodes, [names], "y")).run({"names": np.array(["a", "bc"])})
    assert y.tolist() == ["a", "bc", "a", "bc"]


def test_the_default_domain_by_its_other_name():
    nodes = [helper.make_node(op, [a], [b], domain="ai.onnx") for op, a, b in (("Relu", "x", "r"), ("Cosh", "r", "y"))]
    (y,) = Session(model(nodes, {"x": X}, "y")).run({"x": X})
    np.testing.assert_allclose(y, np.cosh(np.maximum(X, 0)), rtol=1e-6)


# The interface of backends.


def test_prepare_takes_arrays_in_order_or_by_name():
    for prepare in (Backend.prepare, backend.prepare):
        prepared = prepare(convolution(), "CPU")
        for inputs in (X, [X], {"x": X}):
            outputs = prepared.run(inputs)
            np.testing.assert_array_equal(outputs.y, np.maximum(outputs["c"], 0))
            assert outputs[1] is outputs.c


def test_run_model_and_run_node():
    (_, c) = backend.run_model(convolution(), [X])
    np.testing.assert_allclose(c, expected(X), rtol=1e-5, atol=1e-5)
    relu = onnx.helper.make_node("Relu", ["a"], ["b"])
    np.testing.assert_array_equal(backend.run_node(relu, [X])[0], np.maximum(X, 0))
    softmax = onnx.helper.make_node("Softmax", ["a"], ["b"])
    rows = backend.run_node(softmax, [X], opset_version=12)[0].reshape(2, -1)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)


def test_run_node_with_an_input_left_out():
    clip = onnx.helper.make_node("Clip", ["a", "", "high"], ["b"])
    np.testing.assert_array_equal(backend.run_node(clip, [X, np.float32(0.5)[()]])[0], np.minimum(X, np.float32(0.5)))


def test_the_device_is_the_cpu():
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(ModelError, match="device must be 'CPU', got 'CUDA:1'"):
        backend.prepare(convolution(), "CUDA:1")


def test_compatible_is_what_can_run():
    assert backend.is_compatible(convolution())
    assert not backend.is_compatible(model([helper.make_node("Foo", ["x"], ["y"], domain="bar")], {"x": X}, "y", bar=1))


# Mistakes: one line that names the part.


def raises(text, call, *arguments):
    """The one line of the error that the call raises, which says this."""
    with pytest.raises(ModelError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert text in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b"not a model"], ids=["empty", "picture", "text"])
def test_a_broken_file(tmp_path, content):
    (tmp_path / "broken.onnx").write_bytes(content)
    raises(f"{tmp_path / 'broken.onnx'}: not an ONNX model", Session, tmp_path / "broken.onnx")


def test_half_a_file(tmp_path):
    whole = convolution().SerializeToString()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    raises("half.onnx: not an ONNX model", Session, tmp_path / "half.onnx")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx"):
        Session(tmp_path / "missing.onnx")


def test_weights_of_another_file_that_is_not_there(tmp_path):
    onnx.save(convolution(), tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    _, c = Session(tmp_path / "model.onnx").run({"x": X})
    np.testing.assert_allclose(c, expected(X), rtol=1e-5, atol=1e-5)
    (tmp_path / "weights").unlink()
    raises("model.onnx: its weights in other files cannot be read", Session, tmp_path / "model.onnx")


def test_a_weight_that_is_cut_short():
    proto = convolution()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    raises("the model: initializer 'w' cannot be read", Session, proto)


def test_an_unsupported_operator_is_named():
    proto = model([helper.make_node("Foo", ["x"], ["y"], "odd", domain="bar")], {"x": X}, "y", bar=1)
    raises("Foo 'odd': operator Foo of bar 1 is not supported", Session, proto)
    raises(
        "Foo 0 -> 'y': operator Foo of ai.onnx 22 is not supported",
        Session,
        model([node("Foo", "x", "y")], {"x": X}, "y"),
    )


def test_a_domain_without_an_opset():
    proto = model([helper.make_node("Foo", ["x"], ["y"], "odd", domain="bar")], {"x": X}, "y")
    raises("Foo 'odd': its domain 'bar' is none of the model's opsets", Session, proto)


def test_an_opset_from_the_future():
    raises("its opset is 99", Session, model([node("Relu", "x", "y")], {"x": X}, "y", opset=99))


def test_names_that_do_not_fit_together():
    relu = node("Relu", "z", "y", name="lost")
    raises("Relu 'lost': it reads 'z', which nothing before it makes", Session, model([relu], {"x": X}, "y"))
    twice = [node("Relu", "x", "y", name="one"), node("Neg", "x", "y", name="two")]
    raises("Neg 'two': it makes 'y', which is there before it", Session, model(twice, {"x": X}, "y"))
    raises("output 'y' of the model", Session, model([node("Relu", "x", "z")], {"x": X}, "y"))


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        ({}, "input 'x' of the model must be given"),
        ({"x": X, "z": X}, "the model has no input 'z', its inputs are 'x'"),
        ({"x": X.astype(np.float64)}, "input 'x' must have dtype float32, got float64"),
        ({"x": X.astype(">f4")}, "input 'x' must have dtype float32, got >f4"),
        ({"x": X[:, :2]}, "input 'x' must have shape (batch, 3, 8, width), got (2, 2, 8, 8)"),
        ({"x": X[0]}, "input 'x' must have shape (batch, 3, 8, width), got (3, 8, 8)"),
        ({"x": X[..., :2]}, "Conv 'first': "),
    ],
    ids=["missing", "unknown", "dtype", "byte order", "channels", "axes", "too narrow"],
)
def test_wrong_inputs(feeds, text):
    raises(text, Session(convolution()).run, None, feeds)


def test_feeds_that_are_no_mapping():
    with pytest.raises(TypeError, match="input_feed must be a mapping from input names to arrays, got list"):
        Session(convolution()).run(None, [X])
    with pytest.raises(TypeError, match="run takes output names, or None, and a mapping"):
        Session(convolution()).run(["y"])


def test_an_output_that_is_not_there():
    raises("the model has no output 'z', its outputs are 'y', 'c'", Session(convolution()).run, ["z"], {"x": X})


def test_shapes_that_do_not_fit_name_node_and_inputs():
    nodes = [node("Conv", "x w", "y", name="wrong")]
    session = Session(model(nodes, {"x": X}, "y", {"w": normal(4, 5, 3, 3)}))
    message = raises("Conv 'wrong': ", session.run, {"x": X})
    assert "x float32[2, 3, 8, 8]" in message
    session = Session(model([node("Add", "x z", "y", name="sum")], {"x": X, "z": X[..., :3]}, "y"))
    message = raises("Add 'sum': ", session.run, {"x": X, "z": X[..., :3]})
    assert "x float32[2, 3, 8, 8], z float32[2, 3, 8, 3]" in message


@pytest.mark.parametrize(
    ("op", "attributes", "text"),
    [
        ("MaxPool", {}, "attribute kernel_shape must be given"),
        ("MaxPool", {"kernel_shape": [2, 2], "pads": [0, 0]}, "attribute pads must be 4 integers >= 0, got (0, 0)"),
        (
            "MaxPool",
            {"kernel_shape": [2, 2], "strides": [0, 1]},
            "attribute strides must be 2 integers >= 1",
        ),
        ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME"}, "attribute auto_pad must be one of NOTSET"),
        ("LpPool", {"kernel_shape": [2, 2], "p": 0}, "attribute p must be finite and at least 1, got 0"),
        ("LRN", {}, "attribute size must be given"),
    ],
)
def test_wrong_attributes_are_told_when_the_model_is_read(op, attributes, text):
    raises(f"{op} 'wrong': {text}", Session, model([node(op, "x", "y", name="wrong", **attributes)], {"x": X}, "y"))


def test_a_dtype_that_no_kernel_takes():
    x = np.ones((1, 1, 4, 4), np.int32)
    session = Session(model([node("Conv", "x w", "y", name="whole")], {"x": x, "w": x}, "y"))
    text = "Conv 'whole': its dtype must be float16, bfloat16, float32 or float64, got int32"
    raises(text, session.run, {"x": x, "w": x})


def test_an_operator_of_the_evaluator_fails_in_one_line():
    session = Session(model([node("Cosh", "x", "a"), node("Det", "a", "y", name="not square")], {"x": X[..., :3]}, "y"))
    raises("Det 'not square': ", session.run, {"x": X[..., :3]})


def test_the_checker_speaks_for_itself_in_one_line():
    raises("onnx's checker refuses the model", backend.prepare, model([node("Relu", "x x", "y")], {"x": X}, "y"))
