"""Networks made ready for inference."""

from __future__ import annotations

from fastconv.layers.base import Layer
from fastconv.layers.fused import Fused, chain
from fastconv.layers.stripes import in_stripes


def fuse(network: Layer) -> Fused:
    """Return a network for inference that computes what this one does in evaluation mode, faster.

    A batch normalization after a convolution or a transposed one becomes part of its weight and bias, which are
    computed in float64 and rounded once. An activation after it becomes its epilogue, and so do the sum of a residual
    block, if the block's body ends with a convolution, and the activation after that sum. Layers that do nothing in
    evaluation mode are left out. A depthwise convolution of channels_last is run with its neighbours, stripe by stripe,
    where that pays.

    Parameters
    ----------
    network
        Any layer, in either mode. It is left as it is: what the result is made of are copies, with the weights and
        running statistics of now.

    Returns
    -------
    Fused
        A layer in evaluation mode, whose convolutions pack their weights as after `Layer.eval`. Results differ from the
        network's by rounding. It cannot be trained, and the keys of its state are its own.

    Raises
    ------
    TypeError
        If network is not a layer.

    Source: Jacob et al., "Quantization and Training of Neural Networks", 2018, section 3.2, on folding; Alwani et al.,
    "Fused-Layer CNN Accelerators", 2016, on stripes.
    """
    if not isinstance(network, Layer):
        raise TypeError(f"network must be a Layer, got {type(network).__name__}")
    fused = in_stripes(Fused(chain([network]))).eval()
    fused.zero_grad()
    return fused
