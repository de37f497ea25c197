"""Train a PyTorch model on fastconv with several processes, on one machine or more: DistributedDataParallel over gloo.

    torchrun --nproc-per-node 2 examples/ddp.py
    torchrun --nnodes 2 --nproc-per-node 1 --rdzv-endpoint HOST:29500 --rdzv-backend c10d examples/ddp.py

Each process takes its share of the machine's cores and of every batch; gradients are averaged over all of them, so
that a step is that of one process with the whole batch. Needs `pip install 'fastconv[torch,train]'`.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastconv
import fastconv.backends.torch
from fastconv import data


def join() -> tuple[int, int]:
    """Join the processes that torchrun started, with this one's share of the cores; returns (rank, ranks)."""
    if "WORLD_SIZE" not in os.environ:
        raise SystemExit("start it with torchrun: torchrun --nproc-per-node 2 examples/ddp.py")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))  # processes on this machine
    threads = max(1, fastconv.runtime.available_cpus() // local)
    fastconv.set_num_threads(threads)
    torch.set_num_threads(threads)
    dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def network() -> nn.Module:
    """A small network for digits of 32x32 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def distributed() -> DistributedDataParallel:
    """The same network in every process, optimized; its gradients are averaged as they are computed."""
    torch.manual_seed(0)
    return DistributedDataParallel(fastconv.backends.torch.optimize(network(), inplace=True))


def train(model: nn.Module, digits: data.Dataset, epochs: int, batch: int, rank: int, ranks: int) -> float:
    """Train on every ranks-th picture of each batch; returns the share of held-out digits that it gets right."""
    prepare = data.Preparation.of(digits, size=32)
    images, labels = torch.from_numpy(prepare(digits.train_images)), torch.from_numpy(digits.train_labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    order = torch.Generator().manual_seed(0)  # of all processes alike
    for epoch in range(epochs):
        for chosen in torch.randperm(len(images), generator=order)[: len(images) // batch * batch].split(batch):
            mine = chosen[rank::ranks]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[mine]), labels[mine])
            loss.backward()
            optimizer.step()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    model.eval()
    with torch.no_grad():
        answers = model(torch.from_numpy(prepare(digits.test_images))).argmax(1)
    return (answers == torch.from_numpy(digits.test_labels)).float().mean().item()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="of all processes together")
    arguments = parser.parse_args()
    rank, ranks = join()
    right = train(distributed(), data.load(), arguments.epochs, arguments.batch, rank, ranks)
    if rank == 0:
        print(f"{right:.1%} of the held-out digits, {ranks} processes with {fastconv.get_num_threads()} threads each")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
