"""Ablate the neurons of a small network trained on digits exactly and by control variates; write the page's tables.

python docs/explanation/control_variates.py

Shapes: N images, U neurons (units) of a layer, S repetitions.
"""

import platform
import re
import sys
from collections.abc import Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vestige.config import ModelConfig
from vestige.formulas.control import Pilot, design, mean_sizes
from vestige.measurement.ablation.blocks import Blocks, blocks
from vestige.measurement.ablation.controlled import Exact, controlled
from vestige.measurement.ablation.estimating import Job, estimated
from vestige.measurement.ablation.pieces import MemoryPieces, Piece, Pieces
from vestige.measurement.ablation.singles import Singles
from vestige.measurement.inputs import batches
from vestige.measurement.network import Network
from vestige.measurement.ranking import rank
from vestige.models.zoo import build

PAGE = Path(__file__).with_name("control-variates.md")
REPETITIONS = 100
PRECISIONS = (1.1, 1.5, 2.0)


def trained(width: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    """ResNet-8, trained on 600 digits, and the other 1,197 digits."""
    digits = load_digits()
    inputs, labels = torch.from_numpy(digits.images).float()[:, None] / 8 - 1, torch.from_numpy(digits.target).long()
    model = build(ModelConfig(name="resnet8", width=width), classes=10, channels=1, size=8, seed=0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for batch in torch.randperm(600, generator=generator).split(50):
            optimiser.zero_grad()
            cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimiser.step()
    return model.eval(), inputs[600:], labels[600:]


class Remembering(Pieces):
    """Makes the estimates once, and looks up what is run exactly."""

    def __init__(self):
        self._kept: dict[str, Piece] = {}

    def all(self, names, make) -> Iterator[Piece]:  # noqa: D102
        for name in names:
            if name.startswith("screen") and name not in self._kept:
                self._kept[name] = make(name)
            yield self._kept[name] if name.startswith("screen") else make(name)

    def done(self, names) -> list[str]:  # noqa: D102
        return [name for name in names if name in self._kept]


def exact_outcomes(network: Network, of: Blocks, means) -> dict[str, list[Tensor]]:
    """Change of loss, and right before and after, by layer name: (U, N) each."""
    found = {}
    for layer in network.layers:
        singles = Singles(network, layer, "zero", means[layer.name], None)
        parts = []
        for tile in of.tiles():
            intact, ablated = singles.outcomes(tile)
            parts.append((ablated.loss - intact.loss, intact.correct.expand_as(ablated.correct), ablated.correct))
        found[layer.name] = [torch.cat(column, 1) for column in zip(*parts, strict=True)]
    return found


def explained(network: Network, of: Blocks, ranking, outcomes) -> str:
    """How much of the exact change the estimate explains, by layer."""
    jobs = [Job(layer, "zero") for layer in network.layers]
    rows = [
        "| layer | neurons | Spearman of means | variance divided by: median | by: lowest tenth |",
        "|---|---|---|---|---|",
    ]
    with estimated(network, of, jobs, ranking=ranking, pieces=MemoryPieces(), opponents=9) as found:
        for job, estimates in zip(jobs, found.jobs, strict=True):
            change_UN, loss_UN = outcomes[job.layer.name][0], estimates.loss.double()
            units, images = (estimates.size > 0).nonzero(as_tuple=True)
            at = units, images
            everything = Pilot(units, loss_UN[at], estimates.size[at], change_UN[at], torch.ones(len(units)).double())
            means_U = mean_sizes(estimates.size)
            slope_U = design(everything, means_U, 1.0, (estimates.size > 0).sum(1)).slope
            moving_U = change_UN.var(1) > 0
            left_U = (change_UN - slope_U[:, None] * loss_UN).var(1)
            ratio_U = (change_UN.var(1) / left_U.clamp(min=1e-300))[moving_U]
            rho = spearmanr(loss_UN.mean(1), change_UN.mean(1))[0]
            middle, low = ratio_U.median(), ratio_U.quantile(0.1)
            shown = [f"{value:.1f}" if value < 1e4 else "over 10,000" for value in (middle, low)]
            rows.append(f"| {job.layer.name} | {job.layer.units} | {rho:.3f} | {shown[0]} | {shown[1]} |")
    return "\n".join(rows)


def repeated(network: Network, of: Blocks, ranking, outcomes) -> str:
    """What repetitions of the drawing give."""
    jobs, n = [Job(layer, "zero") for layer in network.layers], len(outcomes[network.layers[0].name][0][0])

    def looked_up(_self, _block, pairs) -> Piece:
        piece = {}
        for number, (units_R, images_R, _) in enumerate(pairs):
            found = (column[units_R, images_R] for column in outcomes[jobs[number].layer.name])
            piece |= {f"{name}/{number}": one for name, one in zip(("change", "before", "after"), found, strict=True)}
        return piece

    Exact._run = looked_up
    change_UN = torch.cat([outcomes[job.layer.name][0] for job in jobs])
    flips_U = torch.cat([(o[1] != o[2]).double().mean(1) for o in (outcomes[job.layer.name] for job in jobs)])
    sampling_U = change_UN.std(1) * n**0.5
    rows = [
        "| precision | pairs run | reached: median | reached: highest | intervals cover | in the worst decile |",
        "|---|---|---|---|---|---|",
    ]
    pieces = Remembering()
    for precision in PRECISIONS:
        off, errors, shares = [], [], []
        for seed in range(REPETITIONS):
            found = controlled(network, of, jobs, ranking=ranking, precision=precision, pieces=pieces, seed=seed)
            off.append(torch.cat([near.sums.loss.sum(1) for near in found]) - change_UN.sum(1))
            errors.append(torch.cat([near.variance.sqrt() for near in found]))
            shares.append(torch.cat([near.images for near in found]).double() / n)
        off_SU, error_SU = torch.stack(off), torch.stack(errors)
        judged_U = error_SU.mean(0) > 1e-3 * sampling_U
        covered_U = (off_SU.abs() <= 1.96 * error_SU)[:, judged_U].double().mean(0)
        worst = min(float(part.mean()) for part in covered_U[flips_U[judged_U].argsort()].tensor_split(10))
        # What was really reached: the spread of the repetitions beside the sampling of images.
        reached_U = (1 + off_SU.square().mean(0) / sampling_U.square().clamp(min=1e-300)).sqrt()[sampling_U > 0]
        rows.append(
            f"| {precision} | {torch.stack(shares).mean():.1%} | {reached_U.median():.3f} | {reached_U.max():.3f} "
            f"| {covered_U.mean():.1%} | {worst:.1%} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Write the page's tables."""
    torch.set_num_threads(1)
    model, inputs, labels = trained()
    network = Network.prepare(model, inputs[:2])
    of = blocks(batches((inputs, labels), batch_size=64), 256, tile=64)
    ranking = rank(network, of.tiles())
    with torch.no_grad():
        top1 = float((model(inputs).argmax(1) == labels).float().mean())
    outcomes = exact_outcomes(network, of, ranking.mean)
    versions = ", ".join(f"{name} {version(name)}" for name in ("vestige", "torch", "scikit-learn"))
    tables = {
        "about": f"{date.today()}; Python {platform.python_version()}, {versions}. ResNet-8 of width 16 trained on 600 "
        f"digits; {len(labels):,} others, top-1 {top1:.3f}; value zero; {REPETITIONS} repetitions a row.",
        "explained": explained(network, of, ranking, outcomes),
        "repeated": repeated(network, of, ranking, outcomes),
    }
    page = PAGE.read_text()
    for name, text in tables.items():
        page, found = re.subn(
            rf"(<!-- begin {name} -->\n).*?(\n<!-- end {name} -->)",
            lambda m, t=text: f"{m[1]}\n{t}\n{m[2]}",
            page,
            flags=re.S,
        )
        assert found == 1, name
    PAGE.write_text(page)


if __name__ == "__main__":
    sys.exit(main())
