"""A process of `torchrun` that trains with DDP and keeps value and gradient of the penalty."""

import sys
from pathlib import Path

import torch
from test_penalising import BATCHES, MODES, images, net
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import vestige
from vestige.errors import DataError


def main(folder: str) -> None:
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    mine = slice(0, 7) if rank == 0 else slice(7, 12)
    for mode, settings in MODES.items():
        model = DistributedDataParallel(net(), find_unused_parameters=True)
        penalty = vestige.SelectivityPenalty(model, alpha=-3.0, layers=["relu", "relu_"], **settings)
        for step in range(2):
            model.zero_grad()
            with penalty:
                logits = model((images() + step)[mine])
            value = penalty(torch.tensor(BATCHES["unbalanced"])[mine])
            (value + 0 * logits.sum()).backward()
            gradients = [p.grad for p in model.parameters()]
            torch.save({"value": value.detach(), "gradients": gradients}, Path(folder) / f"{mode}-{step}-{rank}.pt")
    # Wrong labels in one process: the other fails too, and both go on with the next batch.
    with penalty:
        model(images())
    try:
        penalty(torch.arange(3 if rank == 0 else 12) % 4)
    except DataError as error:
        (Path(folder) / f"error-{rank}.txt").write_text(str(error))
    assert penalty(torch.arange(12) % 4).isfinite()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
