"""What an operator of ours is to PyTorch: a custom op, and a function that torch.func can transform."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch

from fastconv.backends.torch.calls import is_ordinary, is_profiled


class Operator:
    """A custom op `fastconv::name` with its fake, its gradient and its batching rule.

    torch.func transforms no custom op that has a gradient, but an autograd.Function: inside its transforms a call goes
    to one, which has the same gradient and runs the same op. A call of eager mode, of which nobody wants to know, goes
    past PyTorch's dispatcher, which takes longer than a small convolution: to what the op does or, with gradients, to a
    Function of it.

    Parameters
    ----------
    name, schema : of the op
    run : what it does with tensors on the CPU
    fake : what it returns for tensors without data: right in shape, strides and dtype
    save : (ctx, inputs, output) -> None, as `torch.library.register_autograd` has it
    backward : (ctx, *gradients) -> a gradient, or None, for each of the inputs
    batch : (info, in_dims, *inputs) -> (outputs, out_dims), as `torch.library.register_vmap` has it
    """

    def __init__(
        self, name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any], save: Callable[..., None],
        backward: Callable[..., Any], batch: Callable[..., Any],
    ) -> None:  # fmt: skip
        definition = torch.library.custom_op(
            f"fastconv::{name}", run, mutates_args=(), device_types="cpu", schema=schema
        )
        definition.register_fake(fake)
        definition.register_autograd(backward, setup_context=save)
        if hasattr(definition, "register_vmap"):  # since PyTorch 2.5
            definition.register_vmap(_of_ops(batch))
        op = getattr(torch.ops.fastconv, name).default

        members = {
            "forward": lambda *inputs: op(*inputs),
            "setup_context": lambda ctx, inputs, output: save(ctx, inputs, output),
            "backward": backward,
            "vmap": batch,
        }
        methods = {key: staticmethod(method) for key, method in members.items()}
        self._run, self._op = run, op
        self._function: Any = type(f"fastconv_{name}", (torch.autograd.Function,), methods)

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = run(*inputs)
            save(ctx, inputs, output)
            return output

        eager = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self._eager: Any = type(f"fastconv_{name}", (torch.autograd.Function,), eager)

    def __call__(self, *inputs: Any) -> Any:
        tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
        if is_ordinary(*tensors) and not is_profiled() and torch.autograd.forward_ad._current_level < 0:
            recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
            return self._eager.apply(*inputs) if recorded else self._run(*inputs)
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active() and not _calls_ops.get():
            return self._function.apply(*inputs)
        return self._op(*inputs)


_calls_ops: ContextVar[bool] = ContextVar("fastconv_calls_ops", default=False)


def _of_ops(batch: Callable[..., Any]) -> Callable[..., Any]:
    """The batching rule of an op, which calls ops: within one PyTorch knows no functions."""

    def rule(*arguments: Any) -> Any:
        token = _calls_ops.set(True)
        try:
            return batch(*arguments)
        finally:
            _calls_ops.reset(token)

    return rule
