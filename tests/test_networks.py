"""Whole networks in the benchmark: their steps, weights and rows, and what is made of them for peers."""

from functools import partial

import numpy as np
import pytest

from fastconv import cli, init, layers, models, runtime
from fastconv.benchmarks import adapters, bench, compare, groups, networks, summary, tables
from fastconv.benchmarks.adapters import ENGINES, OURS, Way
from fastconv.benchmarks.engines import Engine, Result, check_agreement, distance, started
from fastconv.benchmarks.layer import LAYOUTS
from fastconv.benchmarks.networks import Inference, Training, built, pictures, settle
from fastconv.benchmarks.steps import steps, window
from fastconv.benchmarks.timing import Spread
from fastconv.models import mobilenet, resnet, unet
from fastconv.models.kit import Kit

pytestmark = pytest.mark.isa_independent

X_SHAPE = (2, 3, 32, 40)
CLOSE = 1e-5  # relative L2


def kit():
    return Kit("channels_first", np.float32, np.random.default_rng(0), init.kaiming_normal)


def of_every_kind():
    """A network that has each layer and option that steps know."""
    residual = layers.Residual(layers.Conv2d(8, 8, 3, padding=1), layers.Conv2d(8, 8, 1, bias=False), "relu")
    branches = layers.Parallel(
        layers.Conv2d(8, 4, 3, padding=2, dilation=2, groups=4, activation="leaky_relu"),
        layers.Sequential(layers.MaxPool2d(3, 1, 1), layers.Conv2d(8, 6, 1, activation="elu")),
        layers.Identity(),
    )
    pools = layers.MaxPool2d((3, 2), 2, ceil_mode=True), layers.AvgPool2d(2, 1, 1), layers.AdaptiveAvgPool2d((5, 1))
    return layers.Sequential(
        layers.Conv2d(3, 8, (3, 5), (2, 1), (1, 2), bias=False), layers.BatchNorm2d(8, eps=1e-3), layers.ReLU(),
        residual, branches, layers.Conv2d(18, 6, 3, stride=2, padding=1, activation="sigmoid"),
        *pools, layers.Flatten(), layers.Dropout(), layers.Linear(30, 7, activation="tanh"),
        layers.Linear(7, 5, bias=False),
    )  # fmt: skip


def inverted_residuals():
    blocks = [mobilenet.InvertedResidual(kit(), *block) for block in ((3, 8, 2, 1), (8, 8, 1, 6), (8, 12, 2, 6))]
    return layers.Sequential(*blocks, layers.GlobalAvgPool(), layers.Linear(12, 10))


def transposed():
    return layers.Sequential(
        layers.ConvTranspose2d(3, 8, 3, (2, 3), 1, (1, 2), groups=1, bias=False), layers.ReLU(),
        layers.ConvTranspose2d(8, 6, (3, 2), 1, (0, 1), groups=2, dilation=2, activation="tanh"),
    )  # fmt: skip


NETWORKS = {
    "basic blocks": lambda: resnet.residual_network(kit(), 3, 10, resnet.basic, (2, 1, 1, 1), 1),
    "bottlenecks": lambda: resnet.residual_network(kit(), 3, 10, resnet.bottleneck, (1, 1), 4),
    "inverted residuals": inverted_residuals,
    "every kind": of_every_kind,
    "transposed": transposed,
    "u-net": lambda: models.create("unet", in_channels=3, widths=(4, 6, 8), rng=0),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    network = NETWORKS[request.param]()
    settle(network, X_SHAPE)
    return network.eval()


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal(X_SHAPE, np.float32)


def test_onnx_runtime_gives_the_same(network, x):
    pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from fastconv.benchmarks.adapters.networks.onnx_model import model

    session = ort.InferenceSession(model(network, X_SHAPE), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert distance(network(x), y) < CLOSE


def test_torch_gives_the_same_folded_and_frozen(network, x):
    torch = pytest.importorskip("torch")
    from fastconv.benchmarks.adapters.networks.pytorch import frozen, fuse, module

    given = torch.from_numpy(x.copy())
    with torch.inference_mode():
        folded = fuse(module(network, X_SHAPE), inplace=True)
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
        for run in (folded, frozen(folded, given)):
            assert distance(network(x), run(given).numpy()) < CLOSE
            np.testing.assert_array_equal(given.numpy(), x)


def test_a_bottleneck_is_ten_steps_on_one_value():
    block = layers.Sequential(resnet.Block(kit(), resnet.bottleneck(kit(), 64, 16, 1), None))
    operators = [step.operator if isinstance(step.operator, str) else type(step.operator).__name__
                 for step in steps(block, (8, 8))]  # fmt: skip
    body = ["Conv2d", "BatchNorm2d", "relu"]
    assert operators == [*body, *body, *body[:2], "add", "relu"]
    assert steps(block, (8, 8))[-2].inputs == (8, 0)


def test_an_adaptive_pool_is_a_plain_one_or_none():
    pool = layers.AdaptiveAvgPool2d(7)
    assert steps(pool, (7, 7)) == []
    (step,) = steps(pool, (14, 21))
    assert window(step.operator).kernel == (2, 3)
    with pytest.raises(ValueError, match=r"output_size must divide .* \(8, 7\), got output_size=\(7, 7\)"):
        steps(pool, (8, 7))


def test_a_layer_that_peers_do_not_have_is_named():
    with pytest.raises(TypeError, match="got LPPool2d"):
        steps(layers.Sequential(layers.LPPool2d(2.0, 2)), (8, 8))


def test_weights_are_the_same_every_time_and_statistics_those_of_pictures():
    threads = runtime.get_num_threads()
    one, other = (built("resnet50", layout) for layout in ("channels_first", "channels_last"))
    for key, array in one.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[key])
    assert runtime.get_num_threads() == threads
    x = np.random.default_rng(2).standard_normal((1, 3, 64, 64), np.float32)
    y = one(x)
    assert 0.1 < y.std() < 100
    assert distance(y, other(np.ascontiguousarray(np.moveaxis(x, 1, -1)))) < Inference.tolerance * 2**-23


@pytest.mark.parametrize(
    ("name", "products", "parameters"),
    [("resnet50", 4.0e9, 25_557_032), ("vgg16", 15.3e9, 138_357_544), ("mobilenetv2", 0.3e9, 3_504_872)],
)
def test_products_and_parameters_are_the_published_ones(name, products, parameters):
    one, eight = (Inference(name, batch) for batch in (1, 8))
    assert one.multiply_adds == pytest.approx(products, rel=0.03)
    assert eight.multiply_adds == 8 * one.multiply_adds
    assert one.compulsory_bytes == 4 * (3 * 224 * 224 + parameters + 1000)


def test_a_quick_run_has_every_network_at_batch_1():
    (quick,) = groups.sections(["networks"], ["layer"], "float64", None, quick=True)
    assert [task.label for task in quick.tasks] == [f"{name}/b1" for name in networks.RUNNING]
    assert quick.title == "networks, layer rows, float32"
    (only,) = groups.sections(["networks"], ["layer"], "float32", "vgg16/b8", quick=False)
    assert [task.label for task in only.tasks] == ["vgg16/b8"]
    assert groups.sections(["networks"], ["functional"], "float32", None, quick=False) == []
    assert adapters.taking_part(adapters.PEERS, "layer", only.tasks) == ["torch", "onnxruntime", "openvino"]


def test_training_is_compared_with_those_who_train():
    (quick,) = groups.sections(["training"], ["functional"], "float64", None, quick=True)
    assert [task.label for task in quick.tasks] == ["lenet5/train/b64", "resnet50/train/b8"]
    assert quick.title == "training, functional rows, float32"
    assert adapters.taking_part(adapters.PEERS, "functional", quick.tasks) == ["torch"]
    assert groups.sections(["training"], ["layer"], "float32", None, quick=False) == []
    assert quick.tasks[0].multiply_adds == 3 * Inference("lenet5", 64).multiply_adds


def test_products_of_unet_are_those_of_its_layers():
    every = 0  # with taps in the padding
    for key, layer in models.create("unet", initializer=init.zeros).named_layers():
        if isinstance(layer, layers.ConvTranspose2d | layers.Conv2d):
            level = int(key.split(".")[0][-1]) if key != "classifier" else 1
            below = isinstance(layer, layers.ConvTranspose2d)  # it reads the level below
            every += layer.weight.size * (128 >> level - 1 + below) ** 2
    assert 0.95 * every < Inference("unet", 1).multiply_adds < every
    assert Training("unet", 2).multiply_adds == 6 * Inference("unet", 1).multiply_adds


@pytest.mark.parametrize("data_format", LAYOUTS)
@pytest.mark.parametrize(("network", "batch", "left"), [("lenet5", 32, 0.5), ("unet", 2, 0.98)])
def test_losses_of_twenty_steps_are_those_of_torch(network, batch, left, data_format, monkeypatch):
    torch = pytest.importorskip("torch")
    from fastconv.benchmarks.adapters.networks import ours, pytorch

    narrow = models.NETWORKS["unet"]._replace(build=partial(unet.UNet, widths=(8, 16)))
    monkeypatch.setitem(models.NETWORKS, "unet", narrow)
    monkeypatch.setattr(networks, "SIZES", {"unet": 32})
    task = Training(network, batch)
    with torch.inference_mode():  # as an engine of its own has it
        ours, theirs = (engine.prepare(task, pictures(task), data_format).build() for engine in (ours, pytorch))
        losses = np.array([(ours(), theirs()) for _ in range(20)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-4)
    assert losses[-1, 0] < left * losses[0, 0]


def test_a_row_says_which_way_was_the_quickest():
    results = {f"{OURS} channels_last": Result(Spread(2.0, 1.9, 2.1), 0, 4.0, 3.0),
               "torch channels_first": Result(Spread(3.0, 2.9, 3.1), 0, 9.0, 3.0, "frozen")}  # fmt: skip
    rows = [summary.row_of("networks", Inference("vgg16", batch), results, 0.5, 1e9, {}, {}) for batch in (1, 8)]
    assert rows[0]["timings"]["torch channels_first"]["how"] == "frozen"
    assert (rows[1]["layer"], rows[1]["families"]) == ("vgg16/b8", ("all networks", "vgg16"))
    assert {(line["family"], line["batch"]): line["geomean"] for line in summary.lines(rows)} == {
        (family, batch): 1.5 for family in rows[0]["families"] for batch in ("1", "larger")
    }
    assert "torch first frozen" in list(tables.rows_table(rows, "").columns[6].cells)


def test_a_way_is_called_as_what_it_names():
    assert Way("folded", lambda: 3)() == 3


@pytest.fixture(scope="module")
def expected():
    with started([Engine(OURS, 2)]) as (engine,):
        yield engine.run("worker:prepare", SMALLEST, "channels_first").arrays


SMALLEST = Inference("mobilenetv2", 1)


@pytest.mark.parametrize("name", [name for name, entry in ENGINES.items() if entry.networks])
def test_engines_agree(name, expected):
    for package in adapters.missing(name):
        pytest.skip(f"{package} not installed")
    with started([Engine(name, 2)]) as (engine,):
        layout = ENGINES[name].layouts[-1]
        first = engine.run("worker:prepare", SMALLEST, layout)
    check_agreement(SMALLEST, OURS, expected, name, first.arrays)
    assert first.how in (("folded", "frozen") if name == "torch" else ("",))


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "QUICK", bench.Effort(1, 1e-3, 1, 1))
    monkeypatch.setattr("fastconv.benchmarks.ceilings.FOOTPRINTS", (1 << 16, 1 << 20))
    path = str(tmp_path / "new.json")
    arguments = ["--group", "networks", "--filter", SMALLEST.label, "--layout", "channels_last", "--peers", "torch"]
    assert cli.main(["bench", *arguments, "--json", path]) == 0
    assert "networks, layer rows" in capsys.readouterr().out
    (row,) = compare.load(path)["layers"]
    assert row["layer"] == SMALLEST.label
    assert row["timings"][row["best_peer"]]["how"] in ("folded", "frozen")
    assert row["ratio"].keys() == {"channels_last"}
