"""What every benchmark's JSON says of the machine, and how tables spell numbers."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path
from typing import Any

from rich.console import Console

from fastconv import runtime

HERE = Path(__file__).resolve()


def console() -> Console:
    """Where tables go; wide enough for them where the terminal's width is unknown."""
    out = Console()
    return out if out.is_terminal else Console(width=160)


def environment(threads: int, isa: str | None, versions: Mapping[str, str]) -> dict[str, str]:
    """CPU, threads, ISA, versions and commit of a run."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "platform": platform.platform(),
        **runtime.info(),
        "measured threads": str(threads),
        "measured isa": isa or runtime.get_isa(),
        **versions,
    }


def _commit() -> str:
    """Of the checkout this file is part of; an installed one is of none."""
    tracked = _git("ls-files", "--error-unmatch", HERE.name)
    return _git("describe", "--always", "--dirty", "--abbrev=12") or "unknown" if tracked else "installed"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE.parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def write_json(path: str, environment: Mapping[str, str], **tables: Any) -> None:
    """Tables of rows, each a dictionary, and what they were measured on."""
    Path(path).write_text(json.dumps({"environment": environment, **tables}, indent=1) + "\n")


def geometric_mean(values: Iterable[float]) -> float:
    logs = [log(v) for v in values]
    return exp(sum(logs) / len(logs))


def duration(seconds: float) -> str:
    """Three digits in a unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}" if seconds * scale < 1000 else f"{seconds * scale:.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"
