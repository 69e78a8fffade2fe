"""One process of `torchrun`: measures its share of the images, and the first writes what all of them got."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import distributed
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vestige
from vestige.data.loader import Tile
from vestige.measurement.network import Network
from vestige.measurement.selectivity import measure_selectivity
from vestige.measurement.sharing import Group


class Untold(Dataset):
    """Labels that are not known before an item is read."""

    def __init__(self, inputs, labels):
        self.pairs = list(zip(inputs, labels.tolist(), strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def main(out: Path, keep: str) -> None:
    torch.set_num_threads(1)
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(37, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 4, (37,), generator=generator)
    kinds = {
        "tensors": (inputs, labels),
        "loader": DataLoader(TensorDataset(inputs, labels), batch_size=8),
        "untold": DataLoader(Untold(inputs, labels), batch_size=8),
        "list": [(inputs[:20], labels[:20]), (inputs[20:21], labels[20:21]), (inputs[21:], labels[21:])],
    }
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    metric = vestige.ClassSelectivity(num_classes=4)
    for number in range(rank, 2, world):  # of three processes one sees no batch
        rows = slice(18 * number, 18 * number + 18)
        metric.update(inputs[rows], labels[rows])
    (out / f"metric-{rank}.json").write_text(json.dumps({k: v.item() for k, v in metric.compute().items()}))
    for name, data in kinds.items():
        result = vestige.measure(model, data, batch_norm="stored", permutations=20, batch_size=8, keep=keep, sample=15)
        result.table.write_parquet(out / f"{name}-{rank}.parquet")
        scores = [result.n, result.top1, result.loss, *result.class_counts.tolist()]
        (out / f"{name}-{rank}.json").write_text(json.dumps(scores))
    # Tile 3 is missing, as where none of its images can be read: the processes must not lose step.
    network = Network.prepare(model.eval(), inputs[:2])
    tiles = [Tile(inputs[i : i + 1], labels[i : i + 1], 1, np.array([i]), i) for i in range(37) if i != 3]
    mine = [tile for tile in tiles if tile.number % world == rank]
    result = measure_selectivity(network, mine, permutations=5, group=Group(rank, world))
    result.table.write_parquet(out / f"missing-{rank}.parquet")
    (out / f"missing-{rank}.json").write_text(json.dumps([result.n, result.top1, result.loss]))
    try:
        own = slice(0, 20) if rank == 0 else slice(20, 37)  # as loaders do that share out by themselves
        vestige.measure(model, iter([(inputs[own], labels[own])] * 2), batch_norm="stored", permutations=0)
        (out / f"sharded-{rank}.txt").write_text("measured")
    except vestige.VestigeError as error:
        (out / f"sharded-{rank}.txt").write_text(str(error))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
