"""`vestige.SelectivityPenalty`: the penalty on class selectivity in people's own training loops.

Legend: N images, U neurons of all penalised layers side by side, C classes, P of them in the batch.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.functional import one_hot

from vestige.errors import ConfigError, DataError
from vestige.formulas.selectivity import csi, csi_from_sums, eta2_from_moments
from vestige.models.layers import Layer, Layers, penalised_layers, rectified, stages
from vestige.models.listening import Listener
from vestige.models.observing import logits_of
from vestige.training.interventions.selectivity import Estimator, RunningMeans
from vestige.training.interventions.watching import weights
from vestige.training.summing import is_shared, joined_sum, summed

DOING = "computing a SelectivityPenalty"
MOMENTUM = 0.9


class SelectivityPenalty:
    """-alpha * mean over stages of (mean over that stage's neurons of CSI), to be added to a loss.

    CSI = (mu_max - mu_rest) / (mu_max + mu_rest + 1e-6), mu being class means of activations averaged over positions;
    where these can be negative (GELU, SiLU), of the absolute values of the averages, as `vestige.measure` takes them.

    Its context captures what it needs of every forward made in it; then it is called with the labels. Class means are
    those of the global batch where torch.distributed is initialised: value and, as DDP averages gradients, gradient are
    those of one process that has all the images; every process must call it equally often. It computes in float32 or
    more, under autocast too. With gradient accumulation call it for every micro-batch, and divide it as the loss is
    divided: class means are those of the micro-batch.

    The layers are those of `vestige.layers`: they are found in the first forward, on a copy. The network is left as it
    is: hooks are there only while the context is open. A compiled model runs uncompiled in it.

    Args:
      model: any classifier, wrapped in DDP or not.
      alpha: below 0 suppresses selectivity, above 0 rewards it.
      layers: names, patterns of names or layers, as `vestige.layers` and `vestige.measure` take them; None: by rule.
      stages: names of stages; None: all but the last, or all where `layers` are named.
      index: `csi`, or `eta2`: the between-class share of variance, which no offset can lower.
      estimator: of `csi`; `mean` (None): class means of the batch, classes absent from it left out; `running`: their
        exponential moving averages, with the gradient through the batch; `sum`: class sums, absent classes counting as
        0, as the released code of Ranadive et al. 2023 does.
      momentum: of `running`: weight of the means so far; None: 0.9.
      num_classes: C; None: as many as the model's output has columns.
      group: the processes that share a batch; None: all.

    Returns:
      When called: a scalar, differentiable. 0 for a batch with fewer than two classes; with `running`, as long as
      fewer than two have been seen.

    Raises:
      ConfigError: alpha is 0 or no number; no stage is left; a setting that the index or the estimator does not have.
      ModelError: a layer cannot be found, or a forward does not reach it.
      DataError: when called: nothing was captured, or the labels do not fit, in any process that shares it.

    Example:
      >>> import torch, vestige
      >>> from torch.nn.functional import cross_entropy
      >>> model = torch.nn.Sequential(
      ...     torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
      ... )
      >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      >>> penalty = vestige.SelectivityPenalty(model, alpha=-20, layers=["1", "3"])
      >>> for inputs, labels in [(torch.randn(12, 6), torch.arange(12) % 3)]:
      ...     with penalty:
      ...         logits = model(inputs)
      ...     loss = cross_entropy(logits, labels) + penalty(labels)
      ...     optimizer.zero_grad()
      ...     loss.backward()
      ...     optimizer.step()

    References:
      Leavitt & Morcos 2020, Selectivity considered harmful, https://arxiv.org/abs/2003.01262; Ranadive et al.
      2023, On the special role of class-selective neurons in early training, TMLR.
    """

    def __init__(
        self,
        model: nn.Module,
        alpha: float = -20.0,
        *,
        layers: Sequence[str | Layer] | None = None,
        stages: Sequence[str] | None = None,
        index: Literal["csi", "eta2"] = "csi",
        estimator: Estimator | None = None,
        momentum: float | None = None,
        num_classes: int | None = None,
        group: ProcessGroup | None = None,
    ):
        _check(alpha, index, estimator, momentum)
        self.alpha, self.index, self.estimator = alpha, index, estimator or "mean"
        self.num_classes, self._stages, self._group = num_classes, stages, group
        self._named = layers is not None
        self._running = RunningMeans(MOMENTUM if momentum is None else momentum)
        self._captured: dict[str, list[Tensor]] = {}
        self._by_stage_U = torch.empty(0)
        self._listener = Listener(model, self._read, self._choose, layers, done=self._count_classes)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those penalised; empty before the first forward."""
        return self._listener.layers

    def __enter__(self) -> "SelectivityPenalty":
        self._listener.__enter__()
        self._captured = {}
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.__exit__(*error)

    def __call__(self, labels: Tensor) -> Tensor:
        """The term to be added to the loss, for the images of all forwards in the last context.

        Args:
          labels: (N,), whole numbers 0..C-1.
        """
        activations_NU, labels_N, classes = self._together(labels)
        with torch.autocast(activations_NU.device.type, enabled=False):
            counts_C = summed(torch.bincount(labels_N, minlength=classes), self._group)
            if not self._is_defined(counts_C):
                self._learn(activations_NU.detach(), labels_N, counts_C)
                return activations_NU.sum() * 0
            index_U = self._index(activations_NU, labels_N, counts_C)
            if self._by_stage_U.device != index_U.device or self._by_stage_U.dtype != index_U.dtype:
                self._by_stage_U = self._by_stage_U.to(index_U)
            return -self.alpha * (index_U * self._by_stage_U).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """What must be kept to go on from a checkpoint: the running class means (C, U), where there are any."""
        means_CU = self._running.means_CU
        return {} if means_CU is None else {"class_means": means_CU.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self._running.put(state.get("class_means"))

    def _is_defined(self, counts_C: Tensor) -> bool:
        """Two classes must be in the batch, or with `running` in the batch and those before."""
        present = set(counts_C.nonzero()[:, 0].tolist())
        return len(present | (self._running.classes if self.estimator == "running" else set())) > 1

    def _index(self, activations_NU: Tensor, labels_N: Tensor, counts_C: Tensor) -> Tensor:
        """The index of every neuron (U), from the class sums of all processes."""
        if self.index == "eta2":
            activations_NU = activations_NU.double()
        sums_PU, counts_P, present_P = self._sums(activations_NU, labels_N, counts_C)
        if self.index == "eta2":
            squares_U = joined_sum(activations_NU.square().sum(0), self._group)
            return eta2_from_moments(sums_PU, counts_P, squares_U)
        if self.estimator == "sum":
            return csi_from_sums(sums_PU.new_zeros(len(counts_C), sums_PU.shape[1]).index_copy(0, present_P, sums_PU))
        means_PU = sums_PU / counts_P[:, None]
        if self.estimator == "running":
            return self._running.csi(means_PU, present_P, len(counts_C))
        return csi(means_PU)

    def _learn(self, activations_NU: Tensor, labels_N: Tensor, counts_C: Tensor) -> None:
        """`running` remembers the means of a batch of one class."""
        if self.estimator == "running" and counts_C.any():
            sums_PU, counts_P, present_P = self._sums(activations_NU, labels_N, counts_C)
            self._running.add(sums_PU / counts_P[:, None], present_P, len(counts_C))

    def _sums(self, activations_NU: Tensor, labels_N: Tensor, counts_C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class sums of all processes (P, U), images (P) and which classes these are (P): those that have images."""
        present_P = counts_C.nonzero()[:, 0]
        place_C = torch.zeros_like(counts_C)
        place_C[present_P] = torch.arange(len(present_P), device=counts_C.device)
        members_NP = one_hot(place_C[labels_N], len(present_P)).to(activations_NU.dtype)
        sums_PU = joined_sum(members_NP.T @ activations_NU, self._group)
        return sums_PU, counts_C[present_P].to(activations_NU.dtype), present_P

    def _together(self, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """Activations (N, U), labels (N) beside them, and C; an error in one process is one in all: none must wait."""
        found, problem = None, None
        try:
            activations_NU = self._activations(labels)
            labels_N = labels.to(activations_NU.device).long()
            found = activations_NU, labels_N, self._classes(labels_N)
        except DataError as error:
            problem = error
        if self._any_fails(problem is not None) and problem is None:
            problem = DataError(
                DOING,
                found="another process that shares the batch has labels or activations that cannot be used",
                remedy="Look at its error",
            )
        if problem is not None:
            raise problem
        assert found is not None
        return found

    def _any_fails(self, fails: bool) -> bool:
        """Whether a process that shares the batch fails; all of them ask."""
        if not is_shared():
            return False
        parameter = next(self._listener.model.parameters(), None)
        flag = torch.tensor([float(fails)], device=None if parameter is None else parameter.device)
        return bool(summed(flag, self._group).item())

    def _activations(self, labels: Tensor) -> Tensor:
        """Of all forwards of the context (N, U)."""
        if not self._captured:
            raise DataError(
                DOING,
                found="no forward was captured",
                remedy="Run the model within it: `with penalty: logits = model(inputs)`",
            )
        activations_NU = torch.cat([torch.cat(self._captured[layer.name]) for layer in self.layers], 1)
        if labels.ndim != 1 or len(labels) != len(activations_NU):
            raise DataError(
                DOING,
                found=f"labels of shape {tuple(labels.shape)} for {len(activations_NU)} images",
                remedy="Give one class index an image, of all forwards made in the context",
            )
        if labels.is_floating_point() or labels.is_complex():
            raise DataError(
                DOING, found=f"labels of type {labels.dtype}", remedy="Give class indices: whole numbers from 0"
            )
        return activations_NU

    def _classes(self, labels_N: Tensor) -> int:
        classes = self.num_classes
        low, high = (int(labels_N.min()), int(labels_N.max())) if len(labels_N) else (0, 0)
        if classes is None or low < 0 or high >= classes:
            known = "it is not known how many classes there are"
            known = known if classes is None else f"the classes are 0 to {classes - 1}"
            raise DataError(DOING, found=f"labels from {low} to {high}, and {known}", remedy="Give num_classes")
        return classes

    def _count_classes(self, output: Any) -> None:
        if self.num_classes is None and (logits := logits_of(output)).ndim == 2:
            self.num_classes = logits.shape[1]

    def _read(self, layer: Layer, activation: Tensor) -> None:
        # Averaged now: what follows may work in place, and the maps need not be held.
        self._captured.setdefault(layer.name, []).append(rectified(activation, layer))

    def _choose(self, found: Layers) -> Sequence[Layer]:
        chosen = tuple(found) if self._named and self._stages is None else penalised_layers(found, self._stages)
        if not chosen:
            known = ", ".join(stages(found))
            raise ConfigError(
                DOING,
                found=f"it acts on no stage (the last is left out by default; there are: {known})",
                remedy=f"Name stages: stages=[{', '.join(map(repr, stages(found)))}]",
            )
        self._by_stage_U = weights(chosen, [layer.stage for layer in chosen])
        return chosen


def _check(alpha: float, index: str, estimator: str | None, momentum: float | None) -> None:
    doing = "making a SelectivityPenalty"
    if alpha == 0:
        raise ConfigError(doing, found="alpha is 0, so it changes nothing", remedy="Give an alpha below or above 0")
    if not math.isfinite(alpha):
        raise ConfigError(doing, found=f"alpha is {alpha}", remedy="Give a finite number below or above 0")
    for name, value, known in (
        ("index", index, ("csi", "eta2")),
        ("estimator", estimator or "mean", ("mean", "running", "sum")),
    ):
        if value not in known:
            raise ConfigError(doing, found=f"{name} is {value!r}", remedy=f"Choose {' or '.join(map(repr, known))}")
    for name, value, of, given, kind in (
        ("estimator", estimator, "index", index, "csi"),
        ("momentum", momentum, "estimator", estimator, "running"),
    ):
        if value is not None and given != kind:
            raise ConfigError(
                doing,
                found=f"{name} is {value!r}, and only the {of} {kind!r} has one",
                remedy=f"Leave {name} out, or give {of}={kind!r}",
            )
    if momentum is not None and not 0 <= momentum < 1:
        raise ConfigError(doing, found=f"momentum is {momentum:g}", remedy="Give a number from 0 to below 1")
