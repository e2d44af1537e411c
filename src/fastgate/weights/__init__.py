"""Imports the weights of LSTMs from torch, Paddle, Keras, Flax and ONNX.

The functions named ``from_...`` return (layers, options): ``fastgate.LSTM(layers, **options)`` computes the same as the
source.  No framework is imported: its objects are recognized by the names of their classes and attributes.  Only onnx
and h5py are imported, to read models and files.
"""

from fastgate.weights.flax import from_flax
from fastgate.weights.keras import from_keras
from fastgate.weights.onnx import from_onnx, onnx_state
from fastgate.weights.torch import from_paddle, from_torch

__all__ = ["from_flax", "from_keras", "from_onnx", "from_paddle", "from_torch", "onnx_state"]
