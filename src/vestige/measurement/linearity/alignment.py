"""Unbiased linear CKA of every two of input, layers and logits: HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L))."""

from itertools import combinations_with_replacement

import torch

from vestige.formulas.linearity import cka_of_hsics, hsic, u_centred
from vestige.measurement.linearity.grams import Batch
from vestige.measurement.linearity.rows import INPUT, Row


class Alignment:
    """Each HSIC1 averaged over batches of images, before any is divided by another.

    References:
      Nguyen et al. (2021), Do wide and deep networks learn the same things? (minibatch CKA).
    """

    def __init__(self):
        self._sums: dict[tuple[str, str], torch.Tensor] = {}

    def add(self, batch: Batch) -> None:
        """A batch, whose Gram matrices are used up: they are U-centred in their place."""
        grams = batch.grams
        for name in grams:
            grams[name] = u_centred(grams[name])
        for first, second in combinations_with_replacement(grams, 2):
            added = hsic(grams[first], grams[second].to(grams[first]))
            self._sums[first, second] = self._sums.get((first, second), torch.zeros_like(added)) + added

    def rows(self) -> dict[Row, float]:
        """`cka`: each layer with input, logits and later layers."""
        rows = {}
        for (first, second), both in self._sums.items():
            if first != second:
                layer, other = (second, first) if first == INPUT else (first, second)
                cka = cka_of_hsics(both, self._sums[first, first], self._sums[second, second])
                rows["cka", layer, other] = cka.item()
        return rows
