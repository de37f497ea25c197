"""Parts of a model that run fused: the largest modules whose forward torch.fx can trace.

A region is traced once for each mode, what one kernel can do is fused in its graph, and the graph's code runs in the
place of the region's forward as long as that means the same: in evaluation mode without gradients, in training mode
with them, without hooks or tracing, with the modules that were traced. It is compared with the module's own forward
when it first runs, since tracing cannot see all that Python code may depend on, and is not used again if they differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import wraps
from typing import Any

import torch
from torch import nn

from fastconv.backends.torch.fused import Fused, FusedInEvaluation, Unfused, fused, fused_in_training
from fastconv.backends.torch.modules import Swapped, SwappedConv, swap, unswap


class Region(Swapped):
    """A module whose forward may run fused. Its copies are traced when they are next put into a mode."""

    fastconv_region: FusedInEvaluation | Unfused | None = None  # in evaluation mode
    fastconv_training: Fused | Unfused | None = None

    @classmethod
    def fastconv_members(cls, own: Any) -> dict[str, Any]:
        @wraps(own.forward)  # the signature stays
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return own.forward(self, *args, **kwargs)
            region = self.fastconv_training if self.training else self.fastconv_region
            taken = None if region is None else region.accepted(self, args, kwargs)
            if region is None or taken is None:
                result = own.forward(self, *args, **kwargs)
                if region is not None and region.gives_way(args, kwargs):
                    _find_within(self)
                return result
            return region(taken) if region.agrees else region.first(taken, own.forward, self, *args, **kwargs)

        return super().fastconv_members(own) | {"forward": forward}

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        self.fastconv_trace()
        return self

    def fastconv_trace(self) -> None:
        """Trace what its mode needs and has not got."""
        if self.training and self.fastconv_training is None:
            self.fastconv_training = fused_in_training(self)
        elif not self.training and self.fastconv_region is None:
            self.fastconv_region = fused(self)


def find(module: nn.Module) -> None:
    """Make regions of the largest parts of a module that can be traced and have something to fuse."""
    if not any(isinstance(part, SwappedConv) for part in module.modules()):
        return
    region = fused(module)
    if region is None:
        _find_within(module)
        return
    if (region.steps or fused_in_training(module).steps) and not _is_made_of(module, region):
        _find_within(module)
        return
    for child in region.left:
        find(child)


def _find_within(module: nn.Module) -> None:
    """Make regions of parts of a module that is itself none."""
    for child in module.children():
        find(child)


def _is_made_of(module: nn.Module, region: FusedInEvaluation | Unfused) -> bool:
    """Make a region of a module; False if its class lets no other inherit from it."""
    try:
        swap(module, Region)
    except TypeError:
        return False
    module.fastconv_region = region
    module.fastconv_trace()
    return True


def forget(model: nn.Module) -> None:
    """Leave no region in a model."""
    for module in regions(model):
        unswap(module)
        for name in ("fastconv_region", "fastconv_training"):
            module.__dict__.pop(name, None)


def renew(model: nn.Module) -> None:
    """Trace all regions in a model anew."""
    for module in regions(model):
        module.fastconv_region = fused(module)
        module.fastconv_training = None
        module.fastconv_trace()


def regions(model: nn.Module) -> Iterator[nn.Module]:
    """All regions in a model."""
    return (module for module in list(model.modules()) if isinstance(module, Region))
