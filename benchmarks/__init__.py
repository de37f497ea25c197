"""Benchmarks of fastconv and its peers, measured so that they can embarrass us.

    shapes.py           layers of real networks, by name; what each has to multiply and to move at least
    layer.py            one such layer
    task.py             what engines are asked to do with one, and the arrays for it
    networks.py         whole networks, their weights and the pictures for them
    dropins.py          models that people have, of transformers and onnx, for our drop-ins and what these drop into
    steps.py            what a network does, step by step, from which each peer's form of it is made
    adapters/           how an engine runs a task or, in networks/ and dropins/, a whole network: fastconv itself, and
                        each peer
    worker.py           the process that an engine lives in
    engines.py          those processes seen from outside: one awake at a time, rounds in turn
    timing.py           seconds of one call, medians of many, cold calls
    ceilings.py         what this machine can do at most: multiply-adds and copies
    groups.py           which rows a run has, and the families that its summary tells apart
    bench.py            `python -m fastconv bench`, whose command line is options.py
    summary.py          what the times say: ratios to the best peer, a line a family
    board.py, tables.py, chart.py, compare.py   the same live, as tables, as a picture, and against an older run
    deformable.py       deformable convolution beside the dense one of its shape
    epoch.py            an epoch of `python -m fastconv train` and of the same loop in PyTorch
    keras_ratio.py      Keras's NumPy backend with and without fastconv
    floors.py           how near the large layers come to the ceilings, on every ISA
    tasks.py            what the cut into tasks leaves idle of many threads; nothing is run
    test_regressions.py a few operators for pytest-benchmark

`fastconv.benchmarks` is a link to this folder, which an installed fastconv has as a subpackage. The extra `[bench]` is
needed to run it, `[peers]` brings all peers; one that is not installed is left out.
"""
