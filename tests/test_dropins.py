"""Models that people have in the benchmark: which there are, what they are made of, what engines make of them."""

import numpy as np
import pytest

from fastconv import cli, get_num_threads, set_num_threads
from fastconv.benchmarks import adapters, bench, compare, dropins, groups, summary, tables
from fastconv.benchmarks.adapters import OURS, PEERS
from fastconv.benchmarks.dropins import Light, OnnxModel, Recipe, TorchModel, TorchTraining, made
from fastconv.benchmarks.engines import Contestant, Engine, EngineError, Result, check_agreement, race, started
from fastconv.benchmarks.layer import LAYOUTS
from fastconv.benchmarks.networks import pictures
from fastconv.benchmarks.task import KINDS
from fastconv.benchmarks.timing import Spread

pytestmark = pytest.mark.isa_independent

SMALL = {
    "resnet": Recipe(
        "ResNet", options={"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]}, classes=5, size=32
    ),
    "mobilenet": Recipe(
        "MobileNetV2", options={"classifier_dropout_prob": 0.0, "depth_multiplier": 0.25}, classes=5, size=32
    ),
    "convnext": Recipe("ConvNext", options={"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, classes=5,
                       size=32),
    "segformer": Recipe(
        "Segformer", "SemanticSegmentation",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [2, 1], "strides": [4, 2],
         "patch_sizes": [7, 3], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 8,
         "classifier_dropout_prob": 0.0, "drop_path_rate": 0.0},
        classes=5, size=32,
    ),
}  # fmt: skip
FACTS = {"multiply_adds": 10, "parameters": 3, "y_shape": (2, 5)}


@pytest.fixture(params=SMALL)
def recipe(request):
    pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fastconv[bench]'")
    return SMALL[request.param]


@pytest.fixture
def as_in_an_engine():
    """PyTorch in inference mode, on one thread; what its engine has entered for good is left again."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads(), get_num_threads()
    torch.set_num_threads(1)
    set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads[0])
    set_num_threads(threads[1])


def agree(task, expected, results):
    for name, arrays in results.items():
        check_agreement(task, "expected", expected, name, arrays)


def results(module, task, data_format):
    """The first results of an adapter's call."""
    prepared = module.prepare(task, pictures(task), data_format)
    return prepared.arrays(prepared.build()())


def test_an_optimized_model_gives_what_it_did_before(recipe, as_in_an_engine, tmp_path):
    from fastconv.benchmarks.adapters.dropins import huggingface, making, ours, pytorch

    task = making.make(None, TorchModel("small", 2, recipe), str(tmp_path))
    network, x = pytorch.given(task, pictures(task), LAYOUTS[0])
    y = huggingface.Logits(network)(x).numpy()
    assert y.shape == task.facts.y_shape
    assert 0.01 < np.abs(y).max() < 100
    agree(task, (y,), {layout: results(ours, task, layout) for layout in LAYOUTS})
    assert list(tmp_path.iterdir()) == []


def test_pytorch_runs_a_model_in_the_quicker_of_two_ways(as_in_an_engine):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fastconv[bench]'")
    from fastconv.benchmarks.adapters.dropins import huggingface, pytorch

    task = TorchModel("small", 2, SMALL["resnet"])
    network, x = pytorch.given(task, pictures(task), LAYOUTS[0])
    logits = huggingface.Logits(network).eval()
    check_agreement(task, "eager", (logits(x).numpy(),), "frozen", (pytorch.frozen(logits, x)(x).numpy(),))
    assert pytorch.prepare(task, pictures(task), LAYOUTS[1]).build().how in ("eager", "frozen")


def test_a_step_of_training_gives_the_same_loss_and_gradients(recipe, as_in_an_engine, tmp_path):
    from fastconv.benchmarks.adapters.dropins import making, ours, pytorch

    task = making.make(None, TorchTraining("small", 4, recipe), str(tmp_path))
    expected = results(pytorch, task, "channels_first")
    loss, gradients = expected
    assert np.log(5) / 2 < loss[0] < 4 * np.log(5)
    assert np.abs(gradients).max() > 1e-3
    agree(task, expected, {layout: results(ours, task, layout) for layout in LAYOUTS})
    with pytest.raises(EngineError, match="apart"):
        check_agreement(task, "a", expected, "b", (loss, 1.5 * gradients))


def test_an_exported_model_gives_what_pytorch_does(recipe, as_in_an_engine, tmp_path):
    pytest.importorskip("onnx")
    from fastconv.benchmarks.adapters.dropins import making, ours

    task = making.make(None, OnnxModel("small", 2, recipe), str(tmp_path))
    agree(task, task.expected(), {layout: results(ours, task, layout) for layout in LAYOUTS})


def test_steps_lower_the_loss(as_in_an_engine):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fastconv[bench]'")
    from fastconv.benchmarks.adapters.dropins import ours

    step = ours.prepare(task := TorchTraining("small", 4, SMALL["convnext"]), pictures(task), LAYOUTS[0]).build()
    losses = [step() for _ in range(20)]
    assert losses[-1] < losses[0]


def test_weights_are_the_same_every_time(as_in_an_engine):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fastconv[bench]'")
    from fastconv.benchmarks.adapters.dropins.huggingface import built

    before = torch.get_rng_state()
    one, other = (built(SMALL["resnet"]).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "products", "parameters"),
    [("vgg19", 19.6e9, 143_667_240), ("squeezenet", 0.35e9, 1_235_496), ("shufflenet", 0.13e9, 1_420_176)],
)
def test_light_networks_have_the_published_products_and_parameters(name, products, parameters):
    pytest.importorskip("onnx")
    from fastconv.benchmarks.adapters.dropins import light

    one, eight = (light.facts(name, batch) for batch in (1, 8))
    assert one["multiply_adds"] == pytest.approx(products, rel=0.1)
    assert one["parameters"] == pytest.approx(parameters, rel=0.001)
    assert eight["multiply_adds"] == 8 * one["multiply_adds"]
    assert (one["y_shape"][:2], eight["y_shape"][:2]) == ((1, 1000), (8, 1000))


def test_pictures_of_a_light_network_do_not_meet(tmp_path):
    pytest.importorskip("onnx")
    from fastconv.backends.onnx import Session
    from fastconv.benchmarks.adapters.dropins import light

    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224), np.float32)
    both, alone = (Session(light.randomized("shufflenet", batch)) for batch in (2, 1))
    (y,) = both.run({"x": x})
    each = np.concatenate([alone.run({"x": x[i : i + 1]})[0] for i in range(2)])
    check_agreement(OnnxModel("shufflenet", 2, Light("shufflenet")), "both", (y,), "each", (each,))


def test_a_quick_run_has_batch_8_and_goals_and_no_run_by_default_has_them():
    found = {section.group: section for section in groups.sections(groups.DROPINS, KINDS, "float32", None, True)}
    names = ["resnet50", "mobilenetv2", "convnext_tiny", "segformer_b0"]
    assert [task.label for task in found["torch-models"].tasks] == [f"{name}/b8" for name in names]
    assert [task.label for task in found["torch-training"].tasks] == [f"{name}/train/b8" for name in names]
    assert [task.label for task in found["onnx-models"].tasks] == [f"{name}/b8" for name in (*names, "vgg19")]
    (more,) = groups.sections(["onnx-models"], KINDS, "float32", "squeezenet", False)
    assert [task.label for task in more.tasks] == ["squeezenet/b1", "squeezenet/b8"]
    parser = cli._parser()
    assert parser.parse_args(["bench", "--networks"]).group == groups.DROPINS
    assert not set(groups.DROPINS).intersection(parser.parse_args(["bench"]).group)


def test_who_takes_part():
    torch, trained, onnx = (kind("a", 1, SMALL["resnet"]) for kind in (TorchModel, TorchTraining, OnnxModel))
    assert adapters.taking_part(PEERS, "layer", [torch]) == ["torch", "torch.compile"]
    assert adapters.taking_part(PEERS, "functional", [trained]) == ["torch", "torch.compile"]
    assert adapters.taking_part(PEERS, "layer", [onnx]) == ["onnxruntime", "openvino"]
    assert torch.packages == ("torch", "transformers")
    assert onnx.packages == ("onnx", "torch", "transformers")
    assert OnnxModel("a", 1, Light("vgg19")).packages == ("onnx",)


def test_what_must_be_made_first_says_so():
    model = TorchModel("small", 2, SMALL["resnet"])
    with pytest.raises(ValueError, match="small/b2, float32 must be made before it is run"):
        assert model.multiply_adds
    assert made(model, **FACTS).multiply_adds == 10
    training = made(TorchTraining("small", 2, SMALL["segformer"]), **FACTS)
    assert training.multiply_adds == 30
    assert training.labels.shape == (2, 32, 32)
    assert training.compulsory_bytes == 4 * (2 * 3 * 32 * 32 + 4 * 3)
    assert training.limit(0) < 2e-4 < training.limit(1) < 0.1


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    real = bench.find_spec
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "transformers" else real(name))
    assert cli.main(["bench", "--networks", "--filter", "resnet50", "--peers", "torch"]) == 2
    assert capsys.readouterr().err == "fastconv: this needs transformers: pip install 'fastconv[bench]'\n"


def test_groups_and_networks_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", "--networks", "--group", "forward"])
    assert stop.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_line_a_group_holds_the_faster_layout_against_the_best_peer():
    def row(name, ours, last, theirs):
        times = {f"{OURS} channels_first": ours, f"{OURS} channels_last": last, "torch channels_first": theirs}
        timed = {key: Result(Spread(t, t, t), 0, t, t) for key, t in times.items()}
        task = made(TorchModel(name, 8, SMALL["resnet"]), **FACTS)
        return summary.row_of("torch-models", task, timed, 0.5, 1e9, {}, {})

    (line,) = summary.wholes([row("a", 1.0, 2.0, 4.0), row("b", 4.0, 2.0, 2.0)])
    assert (line["geomean"], line["min"], line["worst"]) == (pytest.approx(2), 1, "b/b8")
    assert tables.whole_line(line) == (
        "torch-models, batch 8, faster layout: [green]2.00[/] times as fast as the best peer in the geometric mean, "
        "[green]1.00[/] at least (b/b8)"
    )


def test_what_is_not_expected_stops_the_run():
    task = OnnxModel("a", 1, SMALL["resnet"])

    class Fixed:
        name = OURS

        def run(self, function, *arguments):
            return worker_first(np.ones((1, 5), np.float32))

    with pytest.raises(EngineError, match=r"what is expected and fastconv channels_first are 0\.2 apart"):
        race([Contestant(Fixed(), LAYOUTS[0])], task, 1, 0.001, expected=(np.full((1, 5), 1.25, np.float32),))


def worker_first(y):
    from fastconv.benchmarks.worker import First

    return First((y,), 1.0, 1.0)


def test_the_compiler_says_in_one_line_why_it_failed():
    pytest.importorskip("torch")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fastconv[bench]'")
    from fastconv.benchmarks.adapters.dropins import compiled

    def fails():
        raise ValueError("no compiler\n\nand pages more")

    with pytest.raises(compiled.NotCompiled, match=r"^ValueError: no compiler and pages more$"):
        compiled._or_why(fails)


def test_the_command(tmp_path, capsys, monkeypatch):
    for package in ("onnx", "rich"):
        pytest.importorskip(package)
    monkeypatch.setattr(bench, "QUICK", bench.Effort(1, 1e-3, 1, 1))
    monkeypatch.setattr("fastconv.benchmarks.ceilings.FOOTPRINTS", (1 << 16, 1 << 20))
    monkeypatch.setattr(dropins, "RECIPES", {})
    path = str(tmp_path / "new.json")
    peers = [name for name in ("onnxruntime",) if not adapters.missing(name)]
    arguments = ["--networks", "--filter", "^squeezenet/b1$", "--layout", "channels_last", "--json", path]
    assert cli.main(["bench", *arguments, *(["--peers", *peers] if peers else [])]) == 0
    shown = capsys.readouterr().out
    assert "onnx-models, layer rows" in shown
    (row,) = compare.load(path)["layers"]
    assert (row["layer"], row["families"]) == ("squeezenet/b1", ["all networks", "squeezenet"])
    assert row["timings"].keys() == {f"{OURS} channels_last", *(f"{name} channels_first" for name in peers)}
    if peers:
        assert "onnx-models, batch 1, faster layout: " in shown


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_sessions_of_others_agree(name, tmp_path):
    for package in adapters.missing(name):
        pytest.skip(f"{package} not installed")
    with started([Engine(OURS, 1), Engine(name, 1)]) as (ours, theirs):
        task = ours.run("adapters.dropins.making:make", OnnxModel("small", 2, Light("squeezenet")), str(tmp_path))
        expected = ours.run("worker:prepare", task, "channels_first").arrays
        for layout in adapters.ENGINES[name].layouts:
            check_agreement(task, OURS, expected, name, theirs.run("worker:prepare", task, layout).arrays)
