"""What is wrong with somebody's model; importable without the library that the model is of."""

from __future__ import annotations


class ModelError(ValueError):
    """A model cannot be read or run, or is fed what it does not take; the message, of one line, names the part."""
