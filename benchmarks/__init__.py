"""Benchmarks of fastconv and its peers, measured so that they can embarrass us.

    shapes.py           layers of real networks, by name; what each has to multiply and to move at least
    layer.py            one such layer, and the arrays it runs on
    adapters/           how an engine runs a layer: fastconv itself, PyTorch
    worker.py           the process that an engine lives in
    engines.py          those processes seen from outside: one awake at a time, rounds in turn
    timing.py           seconds of one call, medians of many
    ceilings.py         what this machine can do at most: multiply-adds and copies
    floors.py           how near the large layers come to the ceilings
    versus_torch.py     every layer against PyTorch
    test_regressions.py a few operators for pytest-benchmark

Run from the root of a checkout that is installed with `pip install -e '.[bench]'`; PyTorch joins in where it is
installed. Nothing here is needed to use fastconv.
"""
