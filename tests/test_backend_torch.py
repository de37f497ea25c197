"""PyTorch modules on fastconv: PyTorch's results, memory formats and errors, and what a module is besides."""

import copy
import gc
import inspect
import io
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from processes import python
from torch import nn
from torch_models import MODULES, assert_close, images, network

import fastconv.backends.torch as backend
import fastconv.functional as ff
from fastconv.backends.torch import modules, packing
from fastconv.functional.planned import PlannedConv

pytestmark = [
    pytest.mark.isa_independent,
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning"),
]

DTYPES = [torch.float32, torch.float64]
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pair(name, dtype=torch.float64):
    """A module of PyTorch's, the same on fastconv, and the shape of their input."""
    make, shape = MODULES[name]
    torch.manual_seed(0)
    plain = make().to(dtype)
    ours = backend.optimize(plain)
    assert type(ours) is not type(plain)
    return plain, ours, shape


def results(module, x):
    """What forward returns, as a list, and the gradients of a loss in x and the parameters."""
    x = x.detach().requires_grad_()
    outputs = module(x)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    y = outputs[0]
    weights = images(*y.shape, dtype=y.dtype, seed=1)
    return outputs, torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])


def assert_same(ours, plain, x):
    outputs, gradients = results(plain, x)
    actual_outputs, actual_gradients = results(ours, x)
    terms = x.numel() + outputs[0].numel()  # no sum in any of them is longer
    for actual, expected in zip((*actual_outputs, *actual_gradients), (*outputs, *gradients), strict=True):
        assert_close(actual, expected, terms)
    for actual, expected in zip(actual_outputs, outputs, strict=True):
        assert actual.stride() == expected.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_results_and_gradients_are_pytorch_s(name, dtype):
    plain, ours, shape = pair(name, dtype)
    x = images(*shape, dtype=dtype)
    assert_same(ours, plain, x)
    with torch.no_grad():
        expected, actual = plain.eval()(x), ours.eval()(x)
        again = ours(x)  # with the weight packed
    if isinstance(expected, tuple):
        expected, actual, again = expected[0], actual[0], again[0]
    assert_close(actual, expected, x.numel())
    assert torch.equal(actual, again)
    assert ours not in modules.LEFT


@pytest.mark.parametrize("name", [name for name, (_, shape) in MODULES.items() if len(shape) > 3])
def test_channels_last_comes_out_as_it_goes_in(name):
    plain, ours, shape = pair(name)
    last = FORMATS[len(shape)]
    x = images(*shape, dtype=torch.float64).contiguous(memory_format=last)
    outputs, gradients = results(ours, x)
    expected, expected_gradients = results(plain, x)
    for actual, exact in zip((*outputs, *gradients), (*expected, *expected_gradients), strict=True):
        assert_close(actual, exact, x.numel() + outputs[0].numel())
    for tensor in (*outputs, gradients[0]):
        assert tensor.is_contiguous(memory_format=last)
        assert tensor.stride()[1] == 1


def test_a_channels_last_model_makes_channels_last_results():
    plain = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    x = images(2, 3, 6, 6)
    ours = backend.optimize(plain)
    assert plain(x).stride() == ours(x).stride() == (128, 1, 32, 8)
    assert_same(ours, plain, x)
    with torch.no_grad():
        assert_close(ours.eval()(x), plain(x), 27)


@pytest.mark.parametrize("name", ["conv2d", "conv1d", "conv_transpose2d", "max_pool2d", "avg_pool2d"])
def test_views_of_any_strides_and_single_images_work(name):
    plain, ours, shape = pair(name)
    whole = images(*shape[:-1], 2 * shape[-1], dtype=torch.float64)
    assert_same(ours, plain, whole[..., ::2])
    assert_same(ours, plain, images(*shape[::-1], dtype=torch.float64).permute(*range(len(shape))[::-1]))
    assert_same(ours, plain, images(*shape[1:], dtype=torch.float64))
    expanded = images(1, *shape[1:], dtype=torch.float64).expand(shape)
    assert_same(ours, plain, expanded)


def test_an_empty_batch_works():
    plain, ours, shape = pair("conv2d")
    assert_same(ours, plain, torch.empty(0, *shape[1:], dtype=torch.float64))


def test_the_size_of_a_transposed_result_can_be_chosen():
    plain, ours, shape = pair("conv_transpose2d")
    x = images(*shape, dtype=torch.float64)
    assert ours(x, output_size=(11, 13)).shape == plain(x, output_size=(11, 13)).shape == (2, 6, 11, 13)
    with pytest.raises(ValueError, match="output size"):
        ours(x, output_size=(3, 3))


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_nothing_is_copied_on_the_way_in_or_out(last, monkeypatch):
    seen = {}

    def spy(name):
        operator = getattr(ff, name)

        def call(*arrays, **options):
            result = operator(*arrays, **options)
            seen.setdefault(name, ([address(a) for a in arrays if a is not None and a.strides[0]], result))
            return result

        monkeypatch.setattr(ff, name, call)

    spy("conv2d")
    spy("conv2d_backward")
    spy("max_pool2d")
    spy("max_pool2d_backward")
    model = backend.optimize(nn.Sequential(nn.Conv2d(16, 16, 3), nn.MaxPool2d(2)))
    x = images(4, 16, 20, 20)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    y = model[0](x)
    z = model[1](y)
    grads = {}
    y.register_hook(lambda grad: grads.update(y=grad.data_ptr()))
    weights = torch.ones_like(z)
    (grad_x,) = torch.autograd.grad(z, x, weights)

    (of_x, of_weight, _), convolved = seen["conv2d"]
    assert of_x == x.data_ptr()
    assert of_weight == model[0].weight.data_ptr()
    assert address(convolved) == y.data_ptr()
    (of_y,), (pooled, _) = seen["max_pool2d"]
    assert of_y == y.data_ptr()
    assert address(pooled) == z.data_ptr()
    (of_grad_z, _, _), unpooled = seen["max_pool2d_backward"]
    assert of_grad_z == weights.data_ptr()
    assert address(unpooled) == grads["y"]
    (of_grad_y, *of_operands), gradients = seen["conv2d_backward"]
    assert of_grad_y == grads["y"]
    assert of_operands == [of_x, of_weight]
    assert address(gradients[0]) == grad_x.data_ptr()


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
def test_nothing_is_copied_in_evaluation_mode(last, monkeypatch):
    seen = []
    call = PlannedConv.__call__

    def spy(self, x, **options):
        y = call(self, x, **options)
        seen.append((address(x), address(y)))
        return y

    monkeypatch.setattr(PlannedConv, "__call__", spy)
    model = backend.optimize(nn.Conv2d(16, 16, 3)).eval()
    x = images(4, 16, 20, 20)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        y = model(x)
    assert seen == [(x.data_ptr(), y.data_ptr())]


def test_a_module_stays_what_it_was():
    plain = network()
    ours = backend.optimize(plain)
    assert type(ours.stem[0]) is not nn.Conv2d
    assert isinstance(ours.stem[0], nn.Conv2d)
    assert repr(ours) == repr(plain)
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in plain.named_modules()]
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict())
    assert type(plain.stem[0]) is nn.Conv2d
    parameters = list(plain.parameters())
    assert backend.optimize(plain, inplace=True) is plain
    assert all(a is b for a, b in zip(parameters, plain.parameters(), strict=True))
    assert backend.restore(plain) is plain
    assert {type(module) for module in plain.modules()} == {type(module) for module in network().modules()}


class Named(nn.Conv2d):
    """A convolution with methods of its own."""

    def run(self):
        return "run"

    def members(self):
        return "members"

    def geometry(self):
        return "geometry"


def test_a_class_keeps_its_own_methods():
    ours = backend.optimize(Named(3, 4, 3))
    assert (ours.run(), ours.members(), ours.geometry()) == ("run", "members", "geometry")
    added = {name for kind in type(ours).__mro__[:4] for name in vars(kind)} - set(dir(Named))
    assert all(name.startswith(("fastconv_", "__", "_abc")) for name in added), added
    x = images(1, 3, 5, 5)
    assert_close(pickle.loads(pickle.dumps(ours))(x), ours(x), 27)


def test_copies_and_pickles_run_on_fastconv():
    x = images(2, 3, 16, 16)
    ours = backend.optimize(network()).eval()
    with torch.no_grad():
        expected = ours(x)
    stream = io.BytesIO()
    torch.save(ours, stream)
    stream.seek(0)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(stream, weights_only=False)):
        assert all(module.engine == "fastconv" for module in backend.report(other).modules)
        assert type(other.stem[0]) is type(ours.stem[0])
        assert other.stem[0].weight.data_ptr() != ours.stem[0].weight.data_ptr()
        assert not packing.is_kept(other.stem[0].weight)
        with torch.no_grad():
            assert_close(other(x), expected, 512)


def test_signatures_stay():
    for make, _ in MODULES.values():
        plain = make()
        expected, actual = (inspect.signature(m.forward).parameters for m in (plain, backend.optimize(plain)))
        assert [(p.name, p.default) for p in actual.values()] == [(p.name, p.default) for p in expected.values()]


def test_hooks_are_called():
    ours, calls = backend.optimize(nn.Sequential(nn.Conv2d(3, 4, 3))), []
    ours[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    ours[0].register_forward_hook(lambda module, args, y: y + 1)
    ours[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    x = images(1, 3, 5, 5)
    y = ours(x.requires_grad_())
    y.sum().backward()
    assert calls == ["before", "backward"]
    assert_close(y, nn.functional.conv2d(x, ours[0].weight, ours[0].bias) + 1, 27)


def test_training_goes_as_with_pytorch():
    plain, x = network(torch.float64).train(), images(4, 3, 16, 16, dtype=torch.float64)
    ours, losses = backend.optimize(plain), {}
    for model in (plain, ours):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), torch.arange(4))
            loss.backward()
            optimizer.step()
            losses.setdefault(model, []).append(loss.item())
        losses[model].append(model.eval()(x).sum().item())
    np.testing.assert_allclose(losses[ours], losses[plain], rtol=1e-9)


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch):
    needs = []
    backward = ff.conv2d_backward
    monkeypatch.setattr(ff, "conv2d_backward", lambda *a, need, **o: needs.append(need) or backward(*a, need=need, **o))
    ours, x = backend.optimize(nn.Conv2d(3, 4, 3)), images(1, 3, 5, 5)
    ours(x).sum().backward()
    assert needs == [(False, True, True)]
    ours.weight.requires_grad_(False)
    ours(x.requires_grad_()).sum().backward()
    assert needs[1:] == [(True, False, False)]
    ours.bias.requires_grad_(False)
    y = ours(x)
    assert [saved is None for saved in y.grad_fn.saved_tensors] == [True, False]
    y = ours.requires_grad_()(x.detach())
    assert [saved is None for saved in y.grad_fn.saved_tensors] == [False, True]


def packed(module):
    return packing.is_kept(module.weight)


def test_weights_are_packed_in_evaluation_mode_until_they_change():
    ours, x = backend.optimize(nn.Conv2d(16, 16, 3)), images(1, 16, 12, 12)

    def expected():
        return nn.functional.conv2d(x, ours.weight, ours.bias)

    with torch.no_grad():
        ours(x)
        assert not packed(ours)  # in training mode
        assert_close(ours.eval()(x), expected(), 144)
        assert packed(ours)
        kept = packing._packs[id(ours.weight)]
        ours(x)
        assert packing._packs[id(ours.weight)] is kept
        for change in (
            lambda: ours.weight.mul_(2),
            lambda: ours.bias.add_(1),
            lambda: ours.load_state_dict(nn.Conv2d(16, 16, 3).state_dict()),
            lambda: ours.load_state_dict(nn.Conv2d(16, 16, 3).state_dict(), assign=True),
            lambda: setattr(ours.weight, "data", torch.ones(16, 16, 3, 3)),
            lambda: setattr(ours, "weight", nn.Parameter(torch.zeros(16, 16, 3, 3))),
        ):
            change()
            assert_close(ours(x), expected(), 144)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1)
    ours(x).sum().backward()
    optimizer.step()
    with torch.inference_mode():
        assert_close(ours(x), expected(), 144)
        ours.weight.mul_(2)
        assert_close(ours(x), expected(), 144)


def test_a_write_that_pytorch_does_not_count_takes_refresh():
    ours, x = backend.optimize(nn.Conv2d(16, 16, 3)).eval(), images(1, 16, 12, 12)
    with torch.no_grad():
        before = ours(x)
        ours.weight.data.mul_(2)
        assert torch.equal(ours(x), before)
        assert backend.refresh(ours) is ours
        assert_close(ours(x), nn.functional.conv2d(x, ours.weight, ours.bias), 144)


def test_packed_weights_go_with_their_module():
    ours = backend.optimize(nn.Conv2d(16, 16, 3)).eval()
    with torch.no_grad():
        ours(images(1, 16, 12, 12))
    key = id(ours.weight)
    assert key in packing._packs
    del ours
    gc.collect()
    assert key not in packing._packs


def test_many_threads_may_call_a_model():
    plain = network().eval()
    ours = backend.optimize(plain)
    samples = [images(1 + i % 3, 3, 16, 16, seed=i) for i in range(12)]

    def call(x):
        with torch.no_grad():
            return ours(x)

    with ThreadPoolExecutor(4) as threads, torch.no_grad():
        for x, y in zip(samples, threads.map(call, samples), strict=True):
            assert_close(y, plain(x), 2**12)


def test_weights_that_do_not_last_are_not_packed():
    x = images(1, 16, 12, 12)
    with torch.inference_mode():  # whose tensors count no writes
        ours = backend.optimize(nn.Conv2d(16, 16, 3)).eval()
        ours(x)
        ours.weight.mul_(2)
        assert_close(ours(x), nn.functional.conv2d(x, ours.weight, ours.bias), 144)
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3))
    ours = backend.optimize(normed).eval()
    count = len(packing._packs)
    with torch.no_grad():
        assert_close(ours(x), normed(x), 144)
    assert len(packing._packs) == count


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, x: m.bfloat16()(x.bfloat16()), "the input is bfloat16"),
        (lambda m, x: m.to(torch.complex64)(x.to(torch.complex64)), "the input is complex64"),
        (lambda m, x: m.to("meta")(x.to("meta")), "the input is on meta"),
        (lambda m, x: torch.autocast("cpu", torch.bfloat16)(m)(x), "autocast to bfloat16"),
        (lambda m, x: torch.func.jvp(m, (x,), (x,))[0], "forward-mode gradients"),
    ],
)
def test_what_fastconv_does_not_cover_is_pytorch_s(change, reason):
    plain, x = nn.Sequential(nn.Conv2d(3, 4, 3)), images(1, 3, 5, 5)
    ours = backend.optimize(plain)
    actual, expected = change(ours, x), change(plain, x)
    assert actual.dtype == expected.dtype
    assert actual.device == expected.device
    if actual.device.type == "cpu":
        assert torch.equal(actual, expected)
    (module,) = backend.report(ours).on_torch
    assert module.name == "0"
    assert reason in module.reason or module.engine == "torch"


def test_what_fastconv_refuses_is_tried_with_pytorch():
    plain = nn.LPPool2d(float("inf"), 2)
    ours, x = backend.optimize(plain), images(1, 3, 6, 6)
    assert torch.equal(ours(x), plain(x))
    (module,) = backend.report(ours).on_torch
    assert (module.engine, module.reason) == ("fastconv", "norm_type must be finite and not 0, got norm_type=inf; "
                                              "max_pool is the limit of inf")  # fmt: skip


def test_a_report_tells_what_runs_where():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) + 1

    class Derived(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 3, 1), Own(3, 3, 1), Derived(3, 3, 1), nn.FractionalMaxPool2d(2, 3),
                          nn.LazyConv2d(3, 1), nn.Conv2d(3, 3, 1, dtype=torch.bfloat16), nn.Linear(2, 2))  # fmt: skip
    report = backend.report(backend.optimize(model))
    assert [module.engine for module in report.modules] == ["fastconv", "torch", "fastconv", *["torch"] * 3, "fastconv"]
    assert [module.reason for module in report.on_torch] == [
        "it computes otherwise than Conv2d",
        "fastconv has no such operator",
        "not initialized yet: optimize again after its first call",
        "its weight is bfloat16 on cpu",
    ]
    assert "3 of 7 convolutions, pools and linear layers run on fastconv" in str(report)
    (quantized,) = backend.report(torch.ao.nn.quantized.Conv2d(3, 3, 1)).modules
    assert (quantized.engine, quantized.reason) == ("torch", "it is quantized")
    assert [module.reason for module in backend.report(nn.Sequential(nn.Conv2d(3, 3, 1))).modules] == ["not optimized"]


def test_optimizing_again_takes_in_what_was_added():
    ours = backend.optimize(nn.Sequential(nn.Conv2d(3, 4, 3)), inplace=True)
    kind = type(ours[0])
    ours.append(nn.Conv2d(4, 5, 3))
    backend.optimize(ours, inplace=True)
    assert type(ours[0]) is kind
    assert type(ours[1]) is kind


def test_errors_name_the_module():
    ours = backend.optimize(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.MaxPool2d(9)), fuse=False)
    with pytest.raises(RuntimeError, match=r"0\.0 \(Conv2d\): .* 4 channels"):
        ours(images(1, 4, 8, 8))
    for mode in (True, False):
        with pytest.raises(RuntimeError, match=r"1 \(MaxPool2d\): kernel_size must fit .*\(6, 6\)"):
            ours.train(mode)(images(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match="type") as caught:
        ours(images(1, 3, 12, 12, dtype=torch.float64))
    assert caught.value.__notes__ == ["in 0.0 (Conv2d)"]
    for function in (backend.optimize, backend.refresh, backend.restore, backend.report):
        with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
            function(3)


def test_a_class_given_since_must_be_undone_first():
    ours = backend.optimize(nn.Conv2d(3, 4, 3))
    nn.utils.parametrizations.weight_norm(ours)
    assert_close(ours(images(1, 3, 5, 5)), nn.functional.conv2d(images(1, 3, 5, 5), ours.weight, ours.bias), 27)
    with pytest.raises(RuntimeError, match=r"the model \(ParametrizedConv2d\) has got another class"):
        backend.restore(ours)
    nn.utils.parametrize.remove_parametrizations(ours, "weight")
    assert type(backend.restore(ours)) is nn.Conv2d


def test_without_pytorch_one_line_says_what_to_install():
    status, _, error = python("import sys; sys.modules['torch'] = None; import fastconv.backends.torch")
    assert status == 1
    assert error.splitlines()[-1].endswith("this needs torch: pip install 'fastconv[torch]'")


def test_fastconv_alone_imports_no_pytorch():
    status, out, _ = python("import sys, fastconv, fastconv.backends; print('torch' in sys.modules)")
    assert (status, out) == (0, "False")
    assert "torch" in sys.modules
