"""Regions of many convolutions, turned to channels_last: the same results, which lie as PyTorch has them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from torch_fused import TERMS, assert_runs_fused, optimized
from torch_models import assert_close, images

import fastconv.backends.torch as backend
from fastconv.backends.torch import regions, turning
from fastconv.functional import planned

pytestmark = pytest.mark.isa_independent


class Deep(nn.Module):
    """So many convolutions of 4 channels, each before a ReLU, and what `after` makes of the last map."""

    def __init__(self, after=lambda y, x: y, count=turning.FEWEST):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(count))
        self.after = after

    def forward(self, x):
        y = x
        for conv in self.convs:
            y = F.relu(conv(y))
        return self.after(y, x)


@pytest.fixture
def layouts(monkeypatch):
    """Of the convolutions that are planned."""
    seen = []
    plan = planned.plan_conv2d

    def plan_conv2d(*args, **options):
        seen.append(options["data_format"])
        return plan(*args, **options)

    monkeypatch.setattr(planned, "plan_conv2d", plan_conv2d)
    return seen


def turns(model):
    """Whether contiguous images are turned for a model's one region; None if it has been given none."""
    (region,) = regions.regions(model)
    turning = region.fastconv_region.turning
    return turning.agrees and not turning.refused if turning.agrees or turning.refused else None


RESULTS = {
    "a map": lambda y, x: y,
    "a pool": lambda y, x: F.adaptive_avg_pool2d(y, 1).flatten(1),
    "many": lambda y, x: (y, {"sum": y + x, "first": [y[:, :1], y.mean()]}),
    "pixels": lambda y, x: y.permute(0, 2, 3, 1),
    "lines": lambda y, x: y.flatten(2),
    "lines of pixels": lambda y, x: y.flatten(2).transpose(1, 2),
    "an image": lambda y, x: y[0],
    "another axis": lambda y, x: y.unsqueeze(2),
    "last of all": lambda y, x: y.contiguous(memory_format=torch.channels_last),
    "x itself": lambda y, x: (y, x),
    "twice": lambda y, x: (y, y),
}


@pytest.mark.parametrize("name", RESULTS)
def test_contiguous_images_are_turned(name, layouts):
    plain, ours = optimized(Deep(RESULTS[name]))
    with torch.no_grad():
        for x in (images(2, 4, 6, 5), images(1, 4, 9, 7)):
            for _ in range(3):
                expected, actual = pytree.tree_leaves(plain(x)), pytree.tree_leaves(ours(x))
                for a, b in zip(actual, expected, strict=True):
                    assert_close(a, b, TERMS)
                    assert a.is_contiguous() or not b.is_contiguous()
                    assert (a is x) == (b is x)
                assert len(set(map(id, actual))) == len(set(map(id, expected)))
    assert turns(ours)
    assert layouts.count("channels_last") == 2 * turning.FEWEST  # once for each shape


def test_what_lies_last_is_taken_as_it_is(monkeypatch):
    def never(*_):
        raise AssertionError("a copy")

    monkeypatch.setattr(turning.functional, "to_channels_last", never)
    monkeypatch.setattr(turning.functional, "to_channels_first", never)
    assert_runs_fused(Deep(count=turning.FEWEST - 1), images(2, 4, 6, 5), turning.FEWEST - 1)
    plain, ours = optimized(Deep())
    x = images(2, 4, 6, 5).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(2):
            y = ours(x)
            assert_close(y, plain(x), TERMS)
            assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (2, 4, 1, 1), (0, 4, 6, 5)])
def test_what_lies_both_ways_is_left_alone(shape):
    """And so is a batch of none."""
    model = Deep()
    model.convs[0] = nn.Conv2d(shape[1], 4, 3, padding=1)
    plain, ours = optimized(model)
    x = images(*shape)
    with torch.no_grad():
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
    assert turns(ours) is None


def test_code_that_needs_contiguous_tensors():
    """A view that joins channels with lines, which maps of one line have in either memory format."""
    plain, ours = optimized(Deep(lambda y, x: y.view(y.shape[0], 2, -1, y.shape[3])))
    with torch.no_grad():
        one, more = images(2, 4, 1, 6), images(2, 4, 3, 6)
        for _ in range(3):
            assert_close(ours(one), plain(one), TERMS)
        assert turns(ours)
        with pytest.raises(RuntimeError, match="channels"):
            ours(images(2, 3, 6, 5))
        assert turns(ours)  # the call was wrong
        for _ in range(2):
            assert_close(ours(more), plain(more), TERMS)
        assert turns(ours) is False


def test_code_that_writes_to_its_input():
    class Writing(Deep):
        def forward(self, x):
            return super().forward(x.mul_(2))

    plain, ours = optimized(Writing())
    with torch.no_grad():
        for _ in range(3):
            x = images(2, 4, 6, 5)
            theirs, mine = x.clone(), x.clone()
            assert_close(ours(mine), plain(theirs), TERMS)
            assert torch.equal(mine, theirs)
    (region,) = regions.regions(ours)
    assert region.fastconv_region.agrees
    assert region.fastconv_region.turning is None


def test_a_copy_made_in_inference_mode_runs_fused_too():
    torch.manual_seed(0)
    plain = Deep().eval()
    x = images(2, 4, 6, 5)
    with torch.inference_mode():
        ours = backend.optimize(plain)
        for _ in range(2):
            assert_close(ours(x), plain(x), TERMS)
    (region,) = regions.regions(ours)
    assert len(region.fastconv_region.steps) == turning.FEWEST
