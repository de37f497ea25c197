"""`python -m fastconv bench`: which rows it has, what it makes of times, and what it says and writes."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastconv import cli
from fastconv import functional as ff
from fastconv.benchmarks import bench, chart, compare, groups, summary
from fastconv.benchmarks import deformable as yardstick
from fastconv.benchmarks.adapters import PEERS, taking_part
from fastconv.benchmarks.ceilings import FOOTPRINTS, Ceilings
from fastconv.benchmarks.engines import EngineError, Result
from fastconv.benchmarks.layer import LAYOUTS
from fastconv.benchmarks.report import write_json
from fastconv.benchmarks.shapes import LAYERS, conv, deformable, max_pool, named
from fastconv.benchmarks.task import KINDS, Task
from fastconv.benchmarks.timing import Spread

pytestmark = pytest.mark.isa_independent

SMALL = conv("small", 8, 8, (9, 8), 3, padding=1)
DEFORMABLE = deformable("small", 8, 6, (9, 8), 3, stride=2, padding=1, masked=True)


def result(seconds):
    return Result(Spread(seconds, 0.99 * seconds, 1.01 * seconds), 0, 2 * seconds, 3 * seconds)


def row(layer=SMALL, errors=None, **seconds):
    """A row of times by engine and the first letter after channels_, as `fastconv_f=1`."""
    layouts = {"f": "channels_first", "l": "channels_last"}
    results = {f"{name[:-2]} {layouts[name[-1]]}": result(value) for name, value in seconds.items()}
    return summary.row_of("forward", Task(layer, kind="layer"), results, 0.5, 1e9, errors or {}, {})


def test_ratios_are_to_the_best_peer_and_to_that_of_the_same_layout():
    one = row(fastconv_f=2.0, fastconv_l=1.0, torch_f=3.0, torch_l=1.5, onnxruntime_f=1.8)
    assert one["best_peer"] == "torch channels_last"
    assert one["ratio"] == {"channels_first": 0.75, "channels_last": 1.5}
    assert one["same_layout"] == {"channels_first": 0.9, "channels_last": 1.5}
    assert summary.ours_best(one)["median"] == 1.0


def test_lines_have_geometric_means_minima_and_how_many_are_ahead():
    rows = [row(fastconv_f=1.0, torch_f=4.0), row(named("alexnet/conv3/b1"), fastconv_f=2.0, torch_f=1.0)]
    lines = {line["family"]: line for line in summary.lines(rows)}
    dense = lines[groups.DENSE]
    assert dense["geomean"] == pytest.approx(2**0.5)
    assert (dense["min"], dense["ahead"], dense["layers"], dense["worst"]) == (0.5, 1, 2, "alexnet/conv3/b1")
    assert lines[groups.NARROW]["layers"] == lines[groups.WIDE]["layers"] == 1
    batches = summary.lines([*rows, row(named("vgg16/conv1_2/b4"), fastconv_f=1.0, torch_f=1.0)])
    assert {line["batch"] for line in batches} == {"1", "larger"}


def test_the_same_layout_is_summed_up_over_both():
    rows = [row(fastconv_f=1.0, fastconv_l=1.0, torch_f=4.0, torch_l=2.0), row(fastconv_f=1.0, onnxruntime_f=0.5)]
    rows[1] |= {"layer": "other/c1/b1", "group": "backward"}
    every, forward, backward = summary.same_layout(rows)
    assert (every["group"], every["rows"], every["min"]) == ("all", 3, 0.5)
    assert every["geomean"] == pytest.approx(4 ** (1 / 3))
    assert every["worst"] == "backward: other/c1/b1 channels_first"
    assert (forward["group"], forward["rows"]) == ("forward", 2)
    assert forward["geomean"] == pytest.approx(8**0.5)
    assert [line["group"] for line in summary.same_layout(rows[:1])] == ["forward"]
    assert summary.same_layout([row(fastconv_f=1.0, torch_l=1.0)]) == []
    assert backward["min"] == 0.5


def test_a_row_without_peers_has_no_ratios():
    alone = row(fastconv_f=2.0)
    assert alone["best_peer"] is None
    assert alone["ratio"] == alone["same_layout"] == {}
    assert summary.lines([alone]) == []


def test_errors_above_four_times_those_of_direct_are_told():
    fine, high = ({"channels_first": pair} for pair in ((3.9, 4.0), (3.0, 4.1)))
    assert summary.coarse([row(errors=fine, fastconv_f=1.0)]) == []
    (line,) = summary.coarse([row(errors=high, fastconv_f=1.0)])
    assert "maximum 4.1" in line


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("vgg16/conv1_1/b1", (groups.DENSE, groups.PLAIN)),
        ("vgg16/conv1_2/b1", (groups.DENSE, groups.WIDE)),
        ("alexnet/conv2/b1", (groups.DENSE, groups.WIDE)),
        ("googlenet/3a_5x5/b1", (groups.DENSE, groups.NARROW)),
        ("resnet50/conv3_1b/b1", (groups.DENSE, groups.PLAIN)),
        ("resnet50/conv4_1c/b1", (groups.DENSE, groups.PLAIN)),
        ("deeplabv3/aspp_d12/b1", (groups.DENSE, groups.WIDE)),
        ("resnext50/conv3_2b/b1", (groups.GROUPED,)),
        ("mobilenetv2/block4_depthwise/b1", (groups.GROUPED,)),
        ("dcgan/conv2/b1", (groups.TRANSPOSED,)),
        ("vgg16/pool1/b1", (groups.POOLS,)),
        ("filters/5x5_1024/b1", (groups.FILTERS,)),
        ("dcnv2/conv4_2b/b8", (groups.DEFORMABLE,)),
    ],
)
def test_families(name, families):
    assert groups.families(Task(named(name))) == families


def test_every_layer_is_in_one_group_of_the_forward_pass():
    of_layers = [group for group in groups.GROUPS.values() if isinstance(group, groups.Group)]
    forward = [group for group in of_layers if False in group.passes and group.dtype is None]
    for layer in LAYERS:
        assert sum(group.has(layer) for group in forward) == 1, layer.name


def test_sections_have_the_layers_that_were_asked_for():
    everything = groups.sections(list(groups.GROUPS), KINDS, "float32", None, quick=True)
    assert {section.group for section in everything} == set(groups.GROUPS)
    by_key = {(section.group, section.kind): section for section in everything}
    assert by_key["float64", "layer"].tasks[0].dtype == "float64"
    assert by_key["backward", "functional"].tasks[0].backward
    deformable = [task.label for task in by_key["deformable", "functional"].tasks]
    assert deformable[:2] == ["dcnv1/conv3_2b/b8", "dcnv1/conv3_2b/b8/backward"]
    assert len(deformable) == len(set(deformable)) == 12
    assert ("pool", "functional") not in by_key
    assert ("backward", "layer") not in by_key
    (only,) = groups.sections(["forward", "pool"], ["functional"], "float32", "vgg16/conv1_2/b1", quick=False)
    assert [task.layer.name for task in only.tasks] == ["vgg16/conv1_2/b1"]


def test_who_takes_part():
    dense, image, deformable = ([Task(layer)] for layer in (SMALL, named("filters/3x3_1024/b1"), DEFORMABLE))
    assert taking_part(PEERS, "functional", deformable) == []
    assert taking_part(PEERS, "layer", dense) == ["torch", "onnxruntime", "openvino", "jax"]
    assert taking_part(PEERS, "functional", dense) == ["torch", "jax"]
    assert taking_part(PEERS, "functional", image) == ["torch", "jax", "scipy", "opencv"]
    assert taking_part(PEERS, "layer", dense, widest_isa=False) == ["torch", "jax"]


def test_the_floor_is_the_larger_of_products_and_bytes():
    rates = dict.fromkeys(FOOTPRINTS, 1e9)
    ceilings = Ceilings({"float32": 1e9}, {"ordinary": rates, "streamed": rates | {FOOTPRINTS[0]: 4e9}})
    task = Task(SMALL)
    assert ceilings.floor(task) == pytest.approx(2 * task.multiply_adds / 1e9)
    assert ceilings.floor(task, 1e15) == pytest.approx(task.compulsory_bytes / 4e9)
    pool = Task(max_pool("", 8, (8, 8), 2))
    assert ceilings.floor(pool) == pytest.approx(pool.compulsory_bytes / 4e9)
    between = int((FOOTPRINTS[0] * FOOTPRINTS[1]) ** 0.5)
    assert ceilings.copy_rate(between) == pytest.approx(2e9, rel=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("layer", [DEFORMABLE, replace(DEFORMABLE, masked=False, bias=False)])
def test_deformable_results_are_those_of_the_reference(layer, backward, layout, monkeypatch):
    task = Task(layer, backward=backward)
    yardstick.check(None, task, layout)
    name = "deform_conv2d_backward" if backward else "deform_conv2d"
    right = getattr(ff, name)

    def wrong(*arguments, **options):
        result = right(*arguments, **options)
        last = result[1] if backward else result  # of the gradients that of the offsets
        last.flat[-1] += 0.01
        return result

    monkeypatch.setattr(ff, name, wrong)
    with pytest.raises(EngineError, match=r"the reference and fastconv are .* apart"):
        yardstick.check(None, task, layout)


@pytest.mark.parametrize("backward", [False, True])
def test_deformable_is_timed_beside_dense(backward):
    found = yardstick.beside_dense(None, Task(DEFORMABLE, backward=backward), LAYOUTS[0], 3, 1e-3)
    assert found.pop("seconds") > 0
    assert list(found) == ["direct", "auto"]
    for dense in found.values():
        assert dense["seconds"] > 0
        assert 0 < dense["share"]["low"] <= dense["share"]["median"] <= dense["share"]["high"]


def test_what_moved_is_told():
    old = [row(fastconv_f=1.0, fastconv_l=1.0, torch_f=2.0), row(named("vgg16/conv1_2/b1"), fastconv_f=1.0)]
    new = [row(fastconv_f=0.5, fastconv_l=1.01, torch_f=2.0)]
    steady, faster = compare.moved(old, new)
    assert (faster["layout"], faster["factor"], faster["moved"]) == ("channels_first", 2.0, True)
    assert (faster["old_ratio"], faster["new_ratio"]) == (2.0, 4.0)
    assert not steady["moved"]


def test_a_file_that_is_no_report_is_refused(tmp_path):
    for text in ("", "[]", '{"layers": [{}]}'):
        path = tmp_path / "old.json"
        path.write_text(text)
        with pytest.raises(compare.NotAReport, match=r"old\.json is not a report"):
            compare.load(str(path))


def test_a_chart_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [row(fastconv_f=1.0, torch_f=ratio) for ratio in (0.5, 2.0)]
    assert list(chart.dots(rows).values()) == [[0.5, 2.0]]
    chart.draw(rows, str(tmp_path / "chart.png"), "a machine")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", bench.Effort(1, 1e-3, 1, 1))
    monkeypatch.setattr("fastconv.benchmarks.ceilings.FOOTPRINTS", FOOTPRINTS[:2])
    old, new, picture = (str(tmp_path / name) for name in ("old.json", "new.json", "chart.png"))
    write_json(old, {"commit": "earlier"}, layers=[row(named("lenet5/c1/b1"), fastconv_f=1.0)])
    arguments = ["--group", "forward,pool", "--filter", "^lenet5/(c1|s2)/b1$", "--peers", "torch"]
    assert cli.main(["bench", *arguments, "--json", new, "--chart", picture, "--compare", old]) == 0
    shown = capsys.readouterr().out
    titles = "forward, layer rows", "forward, functional rows", "pool, layer rows", "Ceilings"
    for text in (*titles, "1 of 1 times moved since earlier"):
        assert text in shown
    written = compare.load(new)
    assert {"torch", "commit", "measured isa"} <= written["environment"].keys()
    assert [line["layer"] for line in written["layers"]] == ["lenet5/c1/b1", "lenet5/c1/b1", "lenet5/s2/b1"]
    assert all(np.isfinite(list(line["ratio"].values())).all() for line in written["layers"])
    assert Path(picture).stat().st_size > 1000


def test_the_command_for_deformable(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", bench.Effort(1, 1e-3, 1, 1))
    monkeypatch.setattr("fastconv.benchmarks.ceilings.FOOTPRINTS", FOOTPRINTS[:2])
    path = str(tmp_path / "new.json")
    arguments = ["--group", "deformable", "--filter", "^dcnv2/conv5_2b/b1$", "--peers", "torch", "--json", path]
    assert cli.main(["bench", *arguments]) == 0
    shown = capsys.readouterr().out
    for text in ("deformable, functional rows", "No peer that takes part has deformable", "backward, beside direct"):
        assert text in shown
    rows = compare.load(path)["layers"]
    assert [row["layer"] for row in rows] == ["dcnv2/conv5_2b/b1", "dcnv2/conv5_2b/b1/backward"]
    assert all(row["dense"].keys() == {*LAYOUTS} and row["ratio"] == {} for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "nonesuch"], "no layer of these groups and kinds matches 'nonesuch'"),
        (["--compare", "nonesuch.json"], "nonesuch.json"),
        (["--group", "sideways"], "expected some of forward, "),
        (["--filter", "("], "expected a regular expression"),
        (["--peers", "abacus"], "expected some of torch, "),
    ],
)
def test_misuse_is_one_line(arguments, message, capsys):
    try:
        code = cli.main(["bench", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_peer_that_is_not_there_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setattr("fastconv.benchmarks.adapters.find_spec", lambda package: None)
    assert cli.main(["bench", "--peers", "jax"]) == 2
    assert capsys.readouterr().err == "fastconv: this needs jax: pip install 'fastconv[peers]'\n"


@pytest.mark.parametrize("module", ["benchmarks.ceilings", "fastconv.benchmarks.ceilings"])
def test_the_folder_is_a_package_under_both_names(module):
    root = Path(cli.__file__).parents[1]
    if not (root / "benchmarks").is_dir():
        pytest.skip("no checkout")
    command = [sys.executable, "-m", module, "--help"]
    assert "multiply-adds" in subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
