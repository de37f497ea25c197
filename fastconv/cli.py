"""The command line: train, predict, run, bench, info.

An error of the user is one line on standard error and exit code 2, a Ctrl-C one line and exit code 130.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fastconv import __version__, data, geometry, prediction, progress, runs, runtime, training
from fastconv.backends.errors import ModelError
from fastconv.benchmarks import options as bench_options
from fastconv.extras import MissingExtraError, require

CTRL_C = 130  # 128 + SIGINT, as shells have it
MISUSE = 2
USER_ERRORS = (
    data.DataError,
    MissingExtraError,
    ModelError,
    OSError,
    prediction.PictureError,
    runs.RunError,
    training.DivergedError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        print(f"fastconv: {str(stop) or 'stopped'}", file=sys.stderr)
        return CTRL_C
    except BrokenPipeError:  # whoever read our output has enough; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MISUSE
    except USER_ERRORS as error:
        print(f"fastconv: {' '.join(str(error).split())}", file=sys.stderr)
        return MISUSE


def _info(options: argparse.Namespace) -> int:
    facts = runtime.info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:{width}}  {value}")
    return 0


def _train(options: argparse.Namespace) -> int:
    if options.threads:
        runtime.set_num_threads(options.threads)
    dataset = data.load(options.data)
    model, epochs, batch_size = training.DEFAULTS[dataset.name]
    model = options.model or model
    how = training.Options(
        epochs=options.epochs or epochs,
        batch_size=options.batch_size or batch_size,
        optimizer=options.optimizer,
        lr=options.lr or training.LEARNING_RATES[options.optimizer],
        weight_decay=options.weight_decay,
        augment=options.augment,
        seed=options.seed,
    )
    folder = options.run or runs.new_folder(model, dataset.name)
    print(
        f"{model} on {dataset.name}: {len(dataset.train_labels)} pictures to learn from, {len(dataset.test_labels)} to "
        f"test, {runtime.get_num_threads()} threads, {runtime.get_isa()}"
    )
    try:
        with progress.observer(how.epochs, training.steps_per_epoch(dataset, how)) as observer:
            run = training.train(model, dataset, folder, how, observer)
    except training.InterruptedTraining as stop:
        raise KeyboardInterrupt(f"stopped {_reached(stop.run)}") from None
    print(_reached(run))
    return 0


def _reached(run: runs.Run) -> str:
    if run.test_accuracy is None:
        return f"before the first epoch ended: {run.folder} holds no checkpoint"
    seconds = sum(record["seconds"] for record in run.history)
    epochs = len(run.history)
    return f"after {epochs} epochs, {seconds:.1f} s: test accuracy {run.test_accuracy:.2%}, all in {run.folder}"


def _predict(options: argparse.Namespace) -> int:
    likeliest = prediction.classify(runs.Run.load(options.folder), options.image)
    print(likeliest[0][0])
    for name, probability in likeliest[:3]:
        print(f"{probability:8.2%}  {name}")
    return 0


def _run(options: argparse.Namespace) -> int:
    for module in ("onnx", "rich"):
        require(module, extra="onnx")
    from fastconv.backends.onnx import command

    return command.run(options)


def _bench(options: argparse.Namespace) -> int:
    require("rich", extra="bench")
    from fastconv.benchmarks import bench

    return bench.run(options)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, in place of argparse's usage and error."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastconv", description="Convolutional networks on CPUs.")
    parser.add_argument("--version", action="version", version=f"fastconv {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_train(_command(commands, "train", _train, "train a network, by default LeNet-5 on handwritten digits"))
    predict = _command(commands, "predict", _predict, "classify a picture with a trained network")
    predict.add_argument("folder", metavar="RUN", help="a folder that train has left")
    predict.add_argument("image", metavar="IMAGE", help="a PNG, or any picture that Pillow reads")
    _add_run(_command(commands, "run", _run, "run an ONNX model, and tell how long each of its layers takes"))
    bench_options.add(_command(commands, "bench", _bench, "measure layers of real networks against other libraries"))
    _command(commands, "info", _info, "print version, ISA, threads, compiler and OpenMP runtime")
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    parser.set_defaults(command=run)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    options = training.Options()
    by_data = "default: by dataset, " + "; ".join(
        f"{name}: {model}, {epochs} epochs, batches of {batch}"
        for name, (model, epochs, batch) in training.DEFAULTS.items()
    )
    parser.add_argument(
        "--model", choices=training.CLASSIFIERS, metavar="NAME", help=f"one of {', '.join(training.CLASSIFIERS)}"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="a folder with the IDX files of MNIST or Fashion-MNIST, gzipped or not, or the binary batches of CIFAR-10 "
        "(default: the 1,797 digits of scikit-learn)",
    )
    parser.add_argument("--epochs", type=_whole(1), metavar="N", help=f"how often each picture is seen; {by_data}")
    parser.add_argument("--batch-size", type=_whole(1), metavar="N", help="pictures a step")
    parser.add_argument(
        "--optimizer", choices=training.OPTIMIZERS, default=options.optimizer, help="default: %(default)s"
    )
    rates = ", ".join(f"{rate:g} for {name}" for name, rate in training.LEARNING_RATES.items())
    parser.add_argument("--lr", type=_above_zero, metavar="RATE", help=f"highest learning rate; default: {rates}")
    parser.add_argument(
        "--weight-decay",
        type=_not_negative,
        default=options.weight_decay,
        metavar="FACTOR",
        help="default: %(default)g",
    )
    parser.add_argument("--no-augment", dest="augment", action="store_false", help="do not distort the pictures")
    parser.add_argument(
        "--seed", type=_whole(0), default=options.seed, metavar="N", help="of everything random; default: %(default)s"
    )
    parser.add_argument("--run", metavar="DIR", help="what to leave and where; default: runs/MODEL-DATA-TIME")
    parser.add_argument(
        "--threads", type=_whole(1, 4096), metavar="N", help="default: OMP_NUM_THREADS, or the CPUs there are"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    feed = parser.add_mutually_exclusive_group()
    feed.add_argument(
        "--input", metavar="X", help="a .npy file, or a .npz file with an array of each input's name (default: random)"
    )
    feed.add_argument(
        "--image",
        metavar="PICTURE",
        help="a PNG, or any picture that Pillow reads; cut to the input's shape, colours scaled as ImageNet's",
    )
    parser.add_argument("--profile", action="store_true", help="print time, share and plan of each layer")
    parser.add_argument(
        "--data-format",
        choices=geometry.DATA_FORMATS,
        default="channels_last",
        help="where channels lie inside; default: %(default)s, in which most models run faster",
    )
    parser.add_argument("--chart", metavar="PICTURE", help="draw the time of each layer into a PNG or SVG file")
    parser.add_argument(
        "--threads", type=_whole(1, 4096), metavar="N", help="default: OMP_NUM_THREADS, or the CPUs there are"
    )


def _whole(least: int, most: int = 2**32 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return parse


def _above_zero(text: str) -> float:
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _not_negative(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
