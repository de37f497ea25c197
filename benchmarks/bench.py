"""Every layer against the peers that are installed: `python -m fastconv bench`; see --help, and options.py.

Each engine and layout lives in a process of its own; one is awake at a time, and its threads have gone to sleep before
the next one's round begins; rounds in turn, medians. Nobody pays for page faults. Results are compared before they are
timed. What the machine's copies reach is measured first, its peak of multiply-adds before and after each row.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

from fastconv import runtime
from fastconv.extras import MissingExtraError, require

from . import adapters, chart, compare, deformable
from .adapters import OURS
from .board import Board
from .ceilings import Ceilings
from .dropins import Model
from .engines import Contestant, Engine, EngineError, race, started
from .groups import Section, sections
from .layer import LAYOUTS
from .networks import Job
from .report import console, environment, write_json
from .shapes import conv
from .summary import Row, coarse, lines, row_of, same_layout, wholes
from .tables import show
from .task import KINDS, Task

WARM = conv("warm", 16, 16, 16, 3, padding=1)
FAILED, MISUSE = 1, 2


@dataclass(frozen=True)
class Effort:
    """How long things are measured."""

    rounds: int
    seconds: float
    """Of a round."""
    cold: int
    probes: int


QUICK, FULL = Effort(5, 0.02, 3, 5), Effort(9, 0.05, 5, 9)


@dataclass
class Measured:
    """What a run has measured so far."""

    ceilings: Ceilings | None = None
    rows: list[Row] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


class Run:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.threads = options.threads or runtime.get_num_threads()
        self.isa, self.algorithm = options.isa, options.algorithm
        self.layouts = (options.layout,) if options.layout else LAYOUTS
        self.peers = _installed(options.peers)
        self.effort = FULL if options.full else QUICK
        self.path = options.json
        self.measured = Measured()

    def measure(self, todo: Sequence[Section], board: Board) -> None:
        """Section after section, into `measured`."""
        dtypes = tuple(dict.fromkeys(section.tasks[0].dtype for section in todo))
        with started([self._engine(OURS)]) as (engine,):
            self.measured.ceilings = Ceilings.measured(engine, dtypes, self.effort.probes)
        invited = dict.fromkeys(name for section in todo for name in self._peers_of(section))
        places = [(name, layout) for name in invited for layout in adapters.ENGINES[name].layouts]
        with started([self._engine(name) for name, _ in places]) as engines:
            peers = [Contestant(engine, layout) for engine, (_, layout) in zip(engines, places, strict=True)]
            self._warm(peers, todo[0].kind)
            for section in todo:
                board.section(section.title)
                names = self._peers_of(section)
                self._measure_section(section, [peer for peer in peers if peer.engine.name in names], board)

    def _measure_section(self, section: Section, peers: Sequence[Contestant], board: Board) -> None:
        """By processes of fastconv's that know no plan yet: a layer's rows come before its functional ones."""
        with started([self._engine(OURS) for _ in self.layouts]) as engines:
            ours = [Contestant(engine, layout) for engine, layout in zip(engines, self.layouts, strict=True)]
            self._warm(ours, section.kind)
            for task in section.tasks:
                board.begin(task.label)
                with tempfile.TemporaryDirectory(prefix="fastconv-") as folder:
                    row = self._row(section.group, self._made(task, folder), [*ours, *peers])
                self.measured.rows.append(row)
                board.add(row)
                self.save()

    def _made(self, task: Job, folder: str) -> Job:
        """A model that people have, ready to be loaded, made by a process that takes its memory away with it."""
        if not isinstance(task, Model):
            return task
        with started([self._engine(OURS)]) as (maker,):
            made: Model = maker.run("adapters.dropins.making:make", task, folder)
            return made

    def _warm(self, contestants: Sequence[Contestant], kind: str) -> None:
        """Let processes run something, so that first calls are those of a plan and not of a process."""
        for contestant in contestants:
            self.measured.versions |= contestant.engine.run("worker:versions")
            contestant.engine.run("worker:prepare", Task(WARM, kind=kind), LAYOUTS[0])

    def _peers_of(self, section: Section) -> list[str]:
        widest = self.isa in (None, runtime.available_isas()[0])
        return adapters.taking_part(self.peers, section.kind, section.tasks, widest)

    def _engine(self, name: str) -> Engine:
        return Engine(name, self.threads, self.isa, self.algorithm)

    def _row(self, group: str, task: Job, contestants: Sequence[Contestant]) -> Row:
        effort, ceilings = self.effort, self.measured.ceilings
        assert ceilings is not None
        ours = [c for c in contestants if c.engine.name == OURS]
        deforms = isinstance(task, Task) and task.layer.deforms
        if deforms:
            ours[0].engine.run("deformable:check", task, ours[0].data_format)
        before = self._peak(contestants[0].engine, task.dtype)
        expected = task.expected() if isinstance(task, Model) else None
        results, wrong = race(contestants, task, effort.rounds, effort.seconds, effort.cold, expected)
        peak = max(before, self._peak(contestants[0].engine, task.dtype))
        errors = {}
        if isinstance(task, Task) and task.dtype == "float32" and not (task.pools or deforms):
            errors = {c.data_format: c.engine.run("adapters.ours:error_ratios", task, c.data_format) for c in ours}
        row = row_of(group, task, results, ceilings.floor(task, peak), peak, errors, wrong)
        if deforms:
            beside = "deformable:beside_dense", task
            row["dense"] = {c.data_format: c.engine.run(*beside, c.data_format, effort.rounds, effort.seconds)
                            for c in ours}  # fmt: skip
        return row

    def _peak(self, engine: Engine, dtype: str) -> float:
        rate: float = engine.run("ceilings:fma_peaks", dtype, self.effort.probes)
        return rate

    def report(self) -> dict[str, Any]:
        """All that was measured, as --json writes it."""
        m = self.measured
        about = environment(self.threads, self.isa, m.versions | {"algorithm": self.algorithm or "auto"})
        ceilings = asdict(m.ceilings) if m.ceilings else None
        summaries = {"summary": lines(m.rows), "same_layout": same_layout(m.rows), "wholes": wholes(m.rows)}
        return {"environment": about, "ceilings": ceilings, "layers": m.rows, **summaries}

    def save(self) -> None:
        """Write --json, after every row: a run may take hours."""
        if self.path:
            write_json(self.path, **self.report())


def _installed(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The peers that a run asks for, or those that are there.

    Raises
    ------
    MissingExtraError
        If one that was asked for is not installed.
    """
    if wanted is None:
        return tuple(peer for peer in adapters.PEERS if not adapters.missing(peer))
    for peer in wanted:
        for package in adapters.missing(peer):
            raise MissingExtraError(f"this needs {package}: pip install 'fastconv[peers]'", name=package)
    return tuple(wanted)


def _require_packages(todo: Sequence[Section]) -> None:
    """Make sure that there is what models are made of and run by.

    Raises
    ------
    MissingExtraError
        If a package is not installed.
    """
    models = [task for section in todo for task in section.tasks if isinstance(task, Model)]
    for package in dict.fromkeys(package for model in models for package in model.packages):
        if find_spec(package) is None:
            extra = "bench" if package == "transformers" else "peers"
            raise MissingExtraError(f"this needs {package}: pip install 'fastconv[{extra}]'", name=package)


def run(options: argparse.Namespace) -> int:
    """Measure, show, and write what was asked for; returns the exit code.

    Raises
    ------
    MissingExtraError
        If a peer that was asked for, a package that models need, or matplotlib for a chart, is not installed.
    """
    if options.chart:
        require("matplotlib", extra="bench")
    try:
        old = compare.load(options.compare) if options.compare else None
        kinds = KINDS if options.kind == "both" else (options.kind,)
        quick = options.quick or not (options.full or options.filter)
        todo = sections(options.group, kinds, options.dtype, options.filter, quick)
        if not todo:
            raise ValueError(f"no layer of these groups and kinds matches {options.filter!r}")
    except ValueError as error:
        print(f"fastconv: {error}", file=sys.stderr)
        return MISUSE
    _require_packages(todo)
    this, out, code = Run(options), console(), 0
    try:
        with Board(out, sum(len(section.tasks) for section in todo)) as board:
            this.measure(todo, board)
    except EngineError as error:
        print(f"fastconv: {error}", file=sys.stderr)
        code = FAILED
    finally:  # what is measured is worth showing, also when it was stopped
        if this.measured.rows:
            code = max(code, _finish(this, options, old))
    return code


def _finish(this: Run, options: argparse.Namespace, old: dict[str, Any] | None) -> int:
    """Show everything and write the files; 1 if errors are too large."""
    report, out, ceilings = this.report(), console(), this.measured.ceilings
    assert ceilings is not None
    show(this.measured.rows, report["summary"], ceilings, out)
    deformable.show(this.measured.rows, out)
    if old is not None:
        compare.show(old, report, out)
    if options.chart:
        about = report["environment"]
        machine = f"{about['machine']}, {about['measured isa']}, {about['measured threads']} threads"
        chart.draw(this.measured.rows, options.chart, f"fastconv {about['fastconv']}, {machine}")
    return FAILED if coarse(this.measured.rows) else 0
