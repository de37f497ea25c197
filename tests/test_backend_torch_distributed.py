"""DistributedDataParallel over gloo: two processes' averaged gradients are one process's of the whole batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fastconv
import fastconv.backends.torch as backend

pytestmark = pytest.mark.isa_independent

EXAMPLES = Path(__file__).parents[1] / "examples"
RANKS, BATCH, HANGS = 2, 8, 300

WORKER = """
import os, sys
sys.path.insert(0, {examples!r})
import ddp, torch, fastconv
rank, ranks = ddp.join()
model = ddp.distributed()
x, labels = torch.load({batch!r})
torch.nn.functional.cross_entropy(model(x[rank::ranks]), labels[rank::ranks]).backward()
if rank == 0:
    torch.save([p.grad for p in model.parameters()] + [fastconv.get_num_threads()], {result!r})
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # gloo's threads may outlive the interpreter, which ends in std::terminate then
"""


def test_gradients_are_those_of_one_process(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import ddp

    batch, result = tmp_path / "batch.pt", tmp_path / "gradients.pt"
    x, labels = torch.randn(BATCH, 1, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(BATCH)
    torch.save((x, labels), batch)
    code = WORKER.format(examples=str(EXAMPLES), batch=str(batch), result=str(result))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(RANKS)
    ]
    for worker in workers:
        _, error = worker.communicate(timeout=HANGS)
        assert worker.returncode == 0, error
    *gradients, threads = torch.load(result)

    torch.manual_seed(0)
    model = backend.optimize(ddp.network())
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    # The mean of two halves against one sum: each rounds once a step of the longest sum, over all pixels of a batch.
    tolerance = np.finfo(np.float32).eps * np.sqrt(BATCH * 32 * 32)
    for ours, parameter in zip(gradients, model.parameters(), strict=True):
        assert (ours - parameter.grad).abs().max() <= tolerance * parameter.grad.abs().max()
    assert threads == max(1, fastconv.runtime.available_cpus() // RANKS)
