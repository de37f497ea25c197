"""onnx's own interface of backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend as OnnxBackend
from onnx.backend.base import BackendRep, namedtupledict

from fastconv.backends.errors import ModelError
from fastconv.backends.onnx.fallback import kernel_of
from fastconv.backends.onnx.model import read
from fastconv.backends.onnx.session import Session

CPU = "CPU"


class PreparedModel(BackendRep):
    """A session that takes its inputs in the model's order and returns a named tuple of outputs."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, inputs: Any, **options: Any) -> tuple[Any, ...]:
        """The outputs for one array, a sequence of arrays, or a mapping from names to arrays.

        Raises
        ------
        ModelError
            As `Session.run` does; also if there are more inputs than the model has.
        """
        names = [value.name for value in self.session.get_inputs()]
        if isinstance(inputs, np.ndarray):
            inputs = [inputs]
        if not isinstance(inputs, Mapping):
            if len(inputs) > len(names):
                raise ModelError(f"the model has {len(names)} inputs, got {len(inputs)}")
            inputs = dict(zip(names, inputs, strict=False))
        outputs = self.session.run(None, inputs)
        return namedtupledict("Outputs", [value.name for value in self.session.get_outputs()])(*outputs)


class Backend(OnnxBackend):
    """fastconv as a backend of ONNX, on the CPU."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = CPU, **options: Any) -> bool:
        """Whether every operator of the model is supported, and the device is ours."""
        try:
            graph = read(model)
            for node in graph.nodes:
                kernel_of(node, graph.opsets)
        except ModelError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(
        cls, model: Any, device: str = CPU, *, data_format: str = "channels_last", **options: Any
    ) -> PreparedModel:
        """Return the model, a `ModelProto`, ready to run; data_format as `Session` takes it.

        Raises
        ------
        ModelError
            If onnx's checker or `Session` refuses it, or the device is none of ours.
        ValueError
            If data_format is neither.
        """
        cls._check_device(device)
        try:
            super().prepare(model, device, **options)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"onnx's checker refuses the model: {' '.join(str(error).split())}") from error
        except ValueError:
            pass  # more than 2 GiB, which the checker does not take; Session checks what it needs itself
        return PreparedModel(Session(model, data_format=data_format))

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = CPU, **options: Any) -> tuple[Any, ...]:
        """Prepare a model and run it once.

        Raises
        ------
        ModelError
            As `prepare` and `PreparedModel.run`.
        """
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = CPU, outputs_info: Sequence[Any] | None = None, **options: Any
    ) -> tuple[Any, ...]:
        """Run one NodeProto; the option `opset_version` is that of its operator, by default the newest.

        Raises
        ------
        ModelError
            As `run_model`.
        """
        names = list(dict.fromkeys(name for name in node.input if name))
        given = inputs if isinstance(inputs, Mapping) else dict(zip(names, _as_list(inputs), strict=False))
        graph = onnx.helper.make_graph(
            [node], "node", [_input(name, given[name]) for name in names if name in given],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )  # fmt: skip
        version = options.pop("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
        cls._check_device(device)
        return PreparedModel(Session(model)).run(given)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it is the CPU."""
        return device.partition(":")[0] == CPU

    @classmethod
    def _check_device(cls, device: str) -> None:
        if not cls.supports_device(device):
            raise ModelError(f"device must be {CPU!r}, got {device!r}")


def _as_list(inputs: Any) -> Sequence[Any]:
    return [inputs] if isinstance(inputs, np.ndarray) else inputs


def _input(name: str, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return onnx.ValueInfoProto(name=name)
    element = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_value_info(name, element, value.shape)


is_compatible = Backend.is_compatible
prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
