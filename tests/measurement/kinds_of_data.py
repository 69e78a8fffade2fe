"""The same 23 inputs in every form in which users have them."""

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

N, SIZE = 23, 4  # the last batch has 3; 6 batches divide into 2 and 3 shares, 5 into neither
INPUTS = torch.arange(N, dtype=torch.float32)[:, None] * torch.ones(3)
LABELS = torch.arange(N) * 7 % 5


class Items(Dataset):
    """Items as users write them; counts what is read."""

    def __init__(self, labels=LABELS, told: str | None = None, target_transform=None):
        self.values, self.target_transform = labels, target_transform
        self.read: list[int] = []
        if told:
            setattr(self, told, labels.tolist())

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int):
        if i >= len(self):
            raise IndexError(i)
        self.read.append(i)
        label = int(self.values[i])
        return INPUTS[i], self.target_transform(label) if self.target_transform else label


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(INPUTS, LABELS.tolist(), strict=True)


class Batched:
    """Batches again and again, labels as lists."""

    def __init__(self, wrap: Any = list):
        self.wrap = wrap

    def __iter__(self):
        for start in range(0, N, SIZE):
            yield INPUTS[start : start + SIZE], self.wrap(LABELS[start : start + SIZE].tolist())


def loader(dataset=None, **settings) -> DataLoader:
    return DataLoader(Items(told="targets") if dataset is None else dataset, batch_size=SIZE, **settings)


KINDS = {
    "tensors": lambda: (INPUTS, LABELS),
    "arrays": lambda: (INPUTS.numpy(), LABELS.numpy().astype(np.uint8)),
    "lists of labels": lambda: [INPUTS, LABELS.tolist()],
    "column of labels": lambda: (INPUTS, LABELS[:, None]),
    "Dataset": lambda: Items(),
    "Dataset with targets": lambda: Items(told="targets"),
    "TensorDataset": lambda: TensorDataset(INPUTS, LABELS),
    "Subset": lambda: Subset(TensorDataset(INPUTS.flip(0), LABELS.flip(0)), range(N - 1, -1, -1)),
    "DataLoader": loader,
    "DataLoader, workers": lambda: loader(num_workers=2),
    "DataLoader of batches": lambda: DataLoader(
        TensorDataset(INPUTS, LABELS), sampler=[range(i, min(i + SIZE, N)) for i in range(0, N, SIZE)], batch_size=None
    ),
    "DataLoader, batch sampler": lambda: DataLoader(
        Items(), batch_sampler=[list(range(i, min(i + SIZE, N))) for i in range(0, N, SIZE)]
    ),
    "DataLoader of a stream": lambda: loader(Stream()),
    "list of batches": lambda: list(Batched()),
    "iterable": Batched,
    "iterable of arrays": lambda: Batched(np.array),
    "generator": lambda: (pair for pair in Batched(torch.tensor)),
}
KNOWN = {"tensors", "arrays", "lists of labels", "column of labels", "Dataset with targets", "TensorDataset", "Subset"}
KNOWN |= {"DataLoader", "DataLoader, workers"}
