"""Fused forwards of PyTorch models: what is fused, what is not, and when a module's own forward runs."""

import copy
import inspect
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_drawn import Drawn
from torch_fused import TERMS, Chain, assert_runs_fused, fused, optimized
from torch_models import assert_close, images, network

import fastconv.backends.torch as backend
from fastconv.backends.torch import regions

pytestmark = pytest.mark.isa_independent


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_network_runs_fused(dtype):
    ours = assert_runs_fused(network(dtype), images(2, 3, 16, 16, dtype=dtype), 7)
    assert fused(ours, "stem.0") == ("stem.1", "stem.2")
    assert fused(ours, "blocks.0.conv2") == ("blocks.0.bn2", "add", "blocks.0.relu")
    assert fused(ours, "blocks.1.conv2") == ("blocks.1.bn2", "add", "blocks.1.relu")
    assert fused(ours, "blocks.1.downsample.0") == ("blocks.1.downsample.1",)
    assert fused(ours, "up") == ("norm", "tanh")


@pytest.mark.parametrize(
    ("after", "does"),
    [
        (lambda m, y, x: m.relu(m.norm(y)), ("norm", "relu")),
        (lambda m, y, x: m.norm(y), ("norm",)),
        (lambda m, y, x: F.relu6(y), ("relu6",)),
        (lambda m, y, x: torch.sigmoid(y), ("sigmoid",)),
        (lambda m, y, x: y.tanh(), ("tanh",)),
        (lambda m, y, x: F.relu(y, inplace=True), ("relu",)),
        (lambda m, y, x: nn.functional.leaky_relu(m.norm(y) + x), ("norm", "add", "leaky_relu")),
        (lambda m, y, x: operator.iadd(y, x).relu(), ("add", "relu")),
        (lambda m, y, x: torch.add(x, y), ("add",)),
        (lambda m, y, x: y.add_(x * 2), ("add",)),
        (lambda m, y, x: m.relu(m.norm(y) + F.avg_pool2d(y, 1)), ()),  # y is used twice
        (lambda m, y, x: m.relu(m.norm(y)) + m.relu(y), ()),
        (lambda m, y, x: y + y, ()),
        (lambda m, y, x: y + 1, ()),
        (lambda m, y, x: F.leaky_relu(y, 0.3), ()),
        (lambda m, y, x: torch.add(y, x, alpha=2), ()),
        (lambda m, y, x: F.gelu(y), ("gelu",)),
        (lambda m, y, x: F.silu(m.norm(y) + x), ("norm", "add", "silu")),
        (lambda m, y, x: F.hardswish(y, inplace=True), ("hardswish",)),
        (lambda m, y, x: F.gelu(y, approximate="tanh"), ()),
        (lambda m, y, x: F.softplus(y), ()),
        (lambda m, y, x: y, ()),
    ],
)  # fmt: skip
def test_what_a_convolution_does_besides(after, does):
    x = images(2, 4, 6, 5)
    if does:
        assert fused(assert_runs_fused(Chain(after), x, 1)) == does
        return
    plain, ours = optimized(Chain(after))
    assert not any(region.fastconv_region.steps for region in regions.regions(ours))
    with torch.no_grad():
        assert_close(ours(x), plain(x), TERMS)


@pytest.mark.parametrize(
    ("activation", "is_fused"),
    [(nn.ReLU(), True), (nn.ReLU6(), True), (nn.Hardtanh(0, 6), True), (nn.LeakyReLU(), True), (nn.ELU(), True),
     (nn.Sigmoid(), True), (nn.Tanh(), True), (nn.Hardtanh(), False), (nn.LeakyReLU(0.2), False), (nn.ELU(2), False),
     (nn.GELU(), True), (nn.GELU("tanh"), True), (nn.SiLU(), True), (nn.Hardswish(), True), (nn.PReLU(), False)],
)  # fmt: skip
def test_activations(activation, is_fused):
    steps = nn.Conv2d(4, 4, 3), nn.Identity(), nn.BatchNorm2d(4), nn.Dropout(), activation
    ours = assert_runs_fused(nn.Sequential(*steps), images(2, 4, 6, 5), 1)
    assert fused(ours, "0") == (("2", "4") if is_fused else ("2",))


@pytest.mark.parametrize(
    ("conv", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6, affine=False), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, 2, padding=1, groups=2, padding_mode="reflect"), nn.BatchNorm2d(6), (2, 4, 9, 8)),
        (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (2, 4, 3, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3, 2, groups=2), nn.BatchNorm1d(6), (2, 4, 9)),
        (nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 4)),
    ],
)
def test_norms_fold_into_every_convolution(conv, norm, shape):
    ours = assert_runs_fused(nn.Sequential(conv, norm, nn.ReLU()), images(*shape), 1)
    assert fused(ours, "0") == ("1", "2")


def test_norms_that_do_not_fold():
    for norm in (nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4), nn.BatchNorm2d(4).double()):
        _, ours = optimized(Chain(lambda m, y, x: m.norm(y), norm=norm))
        assert not list(regions.regions(ours))


class Shortcuts(nn.Module):
    """Sums whose operands are known late, or are written to."""

    def __init__(self, way):
        super().__init__()
        self.main, self.side, self.way = nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(1), way

    def forward(self, x):
        y = self.main(x)
        if self.way == "late":  # the sum waits for the pool, and the convolution with it
            return F.relu(y + self.side(x) * 2)
        if self.way == "written":  # x is another one when the sum is made
            return F.relu(y + self.side(x.mul_(2)))
        side = self.side(x)
        if self.way == "scaled":  # between the convolution and the sum
            y = self.main(x)
            side *= 2
            return F.relu(y + side)
        side.add_(y)  # side is another one afterwards
        return side * 2


@pytest.mark.parametrize(("way", "steps"), [("late", 1), ("written", 0), ("scaled", 0), ("other", 0)])
def test_sums_keep_their_order(way, steps):
    x = images(2, 4, 6, 5)
    if steps:
        assert fused(assert_runs_fused(Shortcuts(way), x, steps), "main") == ("add", "relu")
        return
    plain, ours = optimized(Shortcuts(way))
    assert not list(regions.regions(ours))
    with torch.no_grad():
        assert_close(ours(x.clone()), plain(x.clone()), TERMS)


class Bottleneck(nn.Module):
    """The shortcut comes last and is added in place, as in ResNets of torchvision and transformers."""

    def __init__(self, way):
        super().__init__()
        self.main, self.side = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm, self.norm_of_side, self.way = nn.BatchNorm2d(4), nn.BatchNorm2d(4), way

    def forward(self, x):
        y = self.main(x) if self.way == "bare" else self.norm(self.main(x))
        seen = y.view(y.shape) if self.way == "seen" else None
        side = self.norm_of_side(self.side(x))
        y += side
        y = F.relu(y)
        return y if seen is None else y * seen


@pytest.mark.parametrize(
    ("way", "of_main", "of_side"),
    [
        ("plain", ("norm",), ("norm_of_side", "add", "relu")),
        ("bare", (), ("norm_of_side", "add", "relu")),
        ("seen", ("norm",), ("norm_of_side",)),
    ],
)
def test_a_later_convolution_takes_a_sum_into_what_nobody_else_sees(way, of_main, of_side):
    ours = assert_runs_fused(Bottleneck(way), images(2, 4, 6, 5), 2 if of_main else 1)
    assert (fused(ours, "main"), fused(ours, "side")) == (of_main, of_side)


def test_what_a_forward_writes_to_is_written_to():
    class Adding(Chain):
        def forward(self, x):
            y = x
            x += self.norm(self.conv(x))
            return y * 2

    plain, ours = optimized(Adding(None))
    x = images(2, 4, 6, 5)
    written = []
    with torch.no_grad():
        expected = plain(written.append(x.clone()) or written[0])
        for n in (1, 2):
            assert_close(ours(written.append(x.clone()) or written[n]), expected, TERMS)
            assert_close(written[n], written[0], TERMS)
    assert ours.fastconv_region.agrees
    assert fused(ours) == ("norm",)


def test_sums_that_broadcast_are_added_one_by_one():
    class Gate(Chain):
        def forward(self, x):
            return F.relu(self.conv(x) + x.mean((2, 3), keepdim=True))

    assert_runs_fused(Gate(None), images(2, 4, 6, 5), 1)


def test_source_weights_are_untouched_and_restored():
    plain = network().eval()
    before = copy.deepcopy(plain.state_dict())
    backend.optimize(plain, inplace=True)
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        expected = plain(x)
        assert_close(plain(x), expected, TERMS)
        backend.restore(plain)
        assert_close(plain(x), expected, TERMS)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in before.items())
    assert "fastconv_region" not in vars(plain)
    assert type(plain) is type(network())


def count_calls(model):
    """A list that grows by all fused steps of a region's code when that runs."""
    calls = []
    for region in regions.regions(model):
        fused = region.fastconv_region
        code, steps = fused._code, list(fused.steps)
        fused._code = lambda *args, code=code, steps=steps: calls.extend(steps) or code(*args)
    return calls


def test_a_changed_weight_or_norm_is_folded_anew():
    plain, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        ours(x)
        for change in (
            lambda m: m.stem[0].weight.mul_(2),
            lambda m: m.stem[1].running_var.add_(1),
            lambda m: m.stem[1].bias.sub_(1),
            lambda m: setattr(m.stem[1], "eps", 0.5),
            lambda m: setattr(m.stem[0], "bias", None),
            lambda m: m.stem.__setitem__(1, nn.BatchNorm2d(8).eval()),
            lambda m: m.stem.append(nn.ReLU()),
        ):
            change(plain)
            change(ours)
            assert_close(ours(x), plain(x), TERMS)
        for model in (plain, ours):
            model.blocks[0].bn1.weight.data.mul_(2)
        assert_close(backend.refresh(ours)(x), plain(x), TERMS)


def test_a_fused_forward_runs_only_where_it_means_the_same():
    plain, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        ours(x)
        calls = count_calls(ours)
        ours(x)
        assert len(calls) == 7
        ours(x=x)
        assert len(calls) == 14
        calls.clear()
        seen = []
        hook = ours.blocks[0].register_forward_hook(lambda *args: seen.append(1))
        ours(x)
        hook.remove()
        assert seen == [1]
        ours.blocks[0].bn1.train()
        plain.blocks[0].bn1.train()
        assert_close(ours(x), plain(x), TERMS)
        plain.eval(), ours.eval()
        assert_close(ours.train()(x), plain.train()(x), TERMS)
        plain.eval(), ours.eval()
        assert ours.double()(x.double()).dtype == torch.float64
        calls.clear()
        with torch.autocast("cpu", torch.bfloat16):
            ours.float()(x)
    y = ours(x)  # parameters need gradients
    y.sum().backward()
    assert calls == []
    plain(x).sum().backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad, TERMS)
    ours.requires_grad_(False)
    ours(x)
    assert len(calls) == 7
    ours(x.requires_grad_()).sum().backward()
    assert len(calls) == 7


def test_a_signature_stays():
    _, ours = optimized(network())
    assert list(inspect.signature(ours.forward).parameters) == ["x"]


def test_copies_are_fused_when_they_are_next_evaluated():
    _, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        expected = ours(x)
        for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
            assert_close(other(x), expected, TERMS)
            assert "the model does not run fused: it is a copy" in str(backend.report(other))
            assert_close(other.eval()(x), expected, TERMS)
            assert fused(other, "up") == ("norm", "tanh")
            calls = count_calls(other)
            other.blocks[0].conv1 = nn.Conv2d(8, 8, 3, padding=1)
            other(x)
            assert calls == []  # it has another module now


def test_fusing_can_be_switched_off():
    model = network().eval()
    ours = backend.optimize(model, fuse=False)
    assert not list(regions.regions(ours))
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        assert_close(ours(x), model(x), TERMS)
    assert list(regions.regions(backend.optimize(ours, inplace=True)))
    assert not list(regions.regions(backend.optimize(ours, inplace=True, fuse=False)))


def test_a_forward_of_an_instance_is_called():
    _, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        ours(x)
        calls = count_calls(ours)
        ours.blocks[0].bn1.forward = lambda x: x * 0
        assert torch.isfinite(ours(x)).all()
        assert calls == []
    conv = nn.Conv2d(3, 4, 3)
    conv.forward = lambda x: x
    (module,) = backend.report(backend.optimize(conv)).modules
    assert (module.engine, module.reason) == ("torch", "it computes otherwise than Conv2d")


def test_profilers_see_fused_steps_and_errors_name_modules():
    _, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.no_grad():
        ours(x)
        with torch.profiler.profile() as profile:
            ours(x)
        assert [event.name for event in profile.events()].count("fastconv::fused_convolution") == 7
        with pytest.raises(RuntimeError, match=r"stem\.0 \(Conv2d\): .* 4 channels"):
            ours(images(2, 4, 16, 16))


def test_inference_mode_runs_fused():
    plain, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.inference_mode():
        assert_close(ours(x[:0]), plain(x[:0]), TERMS)
        calls = count_calls(ours)
        assert_close(ours(x), plain(x), TERMS)
        assert_close(ours(x), plain(x), TERMS)
        assert len(calls) == 14  # beside the network's own forward, and in its place
    with torch.no_grad():
        assert_close(ours(x), plain(x), TERMS)
    assert len(calls) == 21
    assert ours.fastconv_region.agrees


def test_weights_of_inference_mode_are_not_folded_ahead():
    plain, ours = optimized(network())
    x = images(2, 3, 16, 16)
    with torch.inference_mode():
        ours(x)
        for model in (plain, ours):
            model.stem[0].weight = nn.Parameter(torch.ones(8, 3, 3, 3))
        assert ours.stem[0].weight.is_inference()
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
            for model in (plain, ours):
                model.stem[0].weight.mul_(0.5)


@pytest.mark.parametrize("seed", range(24))
def test_drawn_networks_run_fused_as_they_do_by_themselves(seed):
    plain, ours = optimized(Drawn(seed).double())
    x = images(2, 4, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = plain(x.clone())
        for _ in range(2):
            for actual, exact in zip(ours(x.clone()), expected, strict=True):
                assert_close(actual, exact, TERMS)
    for region in regions.regions(ours):
        assert region.fastconv_region.agrees or not region.fastconv_region.steps, region.fastconv_region.refused
