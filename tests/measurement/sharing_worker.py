"""One process of `torchrun`: measures its share of the images, and the first writes what all of them got."""

import json
import sys
from pathlib import Path

import torch
import torchvision
from torch import distributed
from torch.utils.data import DataLoader, Dataset, TensorDataset

import vestige


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
    for number in range(rank, 5, world):
        rows = slice(8 * number, 8 * number + 8)
        metric.update(inputs[rows], labels[rows])
    (out / f"metric-{rank}.json").write_text(json.dumps({k: v.item() for k, v in metric.compute().items()}))
    for name, data in kinds.items():
        result = vestige.measure(model, data, batch_norm="stored", permutations=20, batch_size=8, keep=keep, sample=15)
        result.table.write_parquet(out / f"{name}-{rank}.parquet")
        scores = [result.n, result.top1, result.loss, *result.class_counts.tolist()]
        (out / f"{name}-{rank}.json").write_text(json.dumps(scores))
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
