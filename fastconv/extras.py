"""Packages that only some of fastconv needs: imported when they are needed, missed in one clear sentence."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtraError(ModuleNotFoundError):
    """A package of one of fastconv's extras is not installed; the message says which command installs it."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import a module that an extra brings.

    Raises
    ------
    MissingExtraError
        If its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(f"this needs {package}: pip install 'fastconv[{extra}]'", name=error.name) from error
