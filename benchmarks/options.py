"""The options of `python -m fastconv bench`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable

from fastconv import runtime

from .adapters import PEERS
from .groups import DROPINS, GROUPS
from .layer import LAYOUTS
from .task import KINDS


def add(parser: argparse.ArgumentParser) -> None:
    """Add them to a command."""
    much = parser.add_mutually_exclusive_group()
    much.add_argument(
        "--quick", action="store_true", help="a few layers of every kind, in minutes; so without --filter"
    )
    much.add_argument("--full", action="store_true", help="every layer, more rounds: hours")
    default = tuple(name for name in GROUPS if name not in DROPINS)
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--group",
        type=_listed(GROUPS),
        default=default,
        metavar="NAMES",
        help=f"of {', '.join(GROUPS)}; default: all but the last {len(DROPINS)}",
    )
    which.add_argument(
        "--networks",
        action="store_const",
        dest="group",
        const=DROPINS,
        help="models that people have, of transformers and onnx, through our drop-ins for PyTorch and ONNX, against "
        f"what these drop into: short for --group {','.join(DROPINS)}; batch 8, with --full also 1 and more networks",
    )
    parser.add_argument(
        "--kind", choices=(*KINDS, "both"), default="both",
        help="layer: weights packed ahead; functional: within the call; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--filter", type=_pattern, metavar="REGEX", help="only layers whose name or operator matches it"
    )
    parser.add_argument(
        "--peers",
        type=_listed(PEERS),
        metavar="NAMES",
        help=f"of {', '.join(PEERS)}; default: those that are installed",
    )
    parser.add_argument("--layout", choices=LAYOUTS, help="fastconv's; peers run in all of theirs; default: both")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=_count, metavar="N", help="of every engine; default: all")
    parser.add_argument(
        "--isa", choices=runtime.available_isas(), help="peers that cannot be held to it stay out; default: the widest"
    )
    parser.add_argument("--algorithm", choices=runtime.ALGORITHMS, help="fastconv's policy; default: auto")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--chart", metavar="FILE", help="draw the ratios, as PNG or what else the name ends in")
    parser.add_argument("--compare", metavar="OLD.json", help="print what moved since that --json was written")


def _listed(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    names = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        wanted = tuple(text.split(","))
        for name in wanted:
            if name not in names:
                raise argparse.ArgumentTypeError(f"expected some of {', '.join(names)}, got {name!r}")
        return wanted

    return parse


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"expected a regular expression, got {text!r}: {error}") from None
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 4096, got {text!r}")
    return int(text)
