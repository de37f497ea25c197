"""Optimized PyTorch models under torch.compile, torch.export, torch.jit and torch.fx."""

import pytest
import torch
from torch import nn
from torch_models import assert_close, images, network

import fastconv.backends.torch as backend
from fastconv.backends.torch import packing

pytestmark = pytest.mark.isa_independent

TERMS = 2**12  # more than any sum below has, times what a few layers amplify


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same", padding_mode="circular"),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.AdaptiveAvgPool2d((2, None)),
    )


def gradients(model, x):
    x = x.detach().requires_grad_()
    y = model(x)
    return y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])


def test_inductor_compiles_training_into_one_graph(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what is compiled is this code's own
    plain = small()
    ours = backend.optimize(plain)
    x = images(2, 3, 8, 8)
    compiled = torch.compile(ours, fullgraph=True)
    for actual, expected in zip(gradients(compiled, x), gradients(plain, x), strict=True):
        assert_close(actual, expected, TERMS)


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_evaluation_compiles_into_one_graph_with_weights_packed(last):
    plain = network().eval()
    ours = backend.optimize(plain)
    x = images(2, 3, 16, 16)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_close(compiled(x), plain(x), TERMS)
        assert packing.is_kept(ours.stem[0].weight)
        ours.stem[0].weight.mul_(2)
        plain.stem[0].weight.mul_(2)
        assert_close(compiled(x), plain(x), TERMS)


def test_export_keeps_the_batch_open():
    plain = network().eval()
    ours = backend.optimize(plain)
    batch = torch.export.Dim("batch")
    program = torch.export.export(ours, (images(2, 3, 16, 16),), dynamic_shapes={"x": {0: batch}})
    targets = {str(node.target) for node in program.graph.nodes}
    assert "fastconv.convolution.default" in targets
    assert "fastconv.max_pool.default" in targets
    assert not {
        target for target in targets if target.startswith("aten.conv") or ("pool" in target and "aten" in target)
    }
    with torch.no_grad():
        for n in (1, 2, 5):
            x = images(n, 3, 16, 16)
            assert_close(program.module()(x), plain(x), TERMS)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.:DeprecationWarning")
def test_fx_and_jit_trace_optimized_models():
    plain = network().eval()
    ours = backend.optimize(plain)
    x, other = images(2, 3, 16, 16), images(2, 3, 16, 16, seed=1)
    traced = torch.fx.symbolic_trace(ours)
    assert any(node.target == "up" for node in traced.graph.nodes)
    with torch.no_grad():
        scripted = torch.jit.trace(ours, x)
        for model in (traced, scripted):
            assert_close(model(other), plain(other), TERMS)


def test_a_profiler_sees_every_operator():
    ours = backend.optimize(small()).eval()
    with torch.no_grad(), torch.profiler.profile() as profile:
        ours(images(2, 3, 8, 8))
    names = {event.name for event in profile.events()}
    assert {"fastconv::convolution", "fastconv::max_pool", "fastconv::adaptive_avg_pool"} <= names


def test_functions_of_parameters_take_new_ones():
    plain = small()
    ours = backend.optimize(plain).eval()
    x = images(2, 3, 8, 8)
    doubled = {name: 2 * parameter.detach() for name, parameter in plain.named_parameters()}
    with torch.no_grad():
        ours(x)
        assert_close(torch.func.functional_call(ours, doubled, (x,)), torch.func.functional_call(plain, doubled, (x,)),
                     TERMS)  # fmt: skip
