"""Runs that one process makes or that those of `torchrun` share: each step from the same weights."""

import sys
from pathlib import Path

import torch
from small_runs import PENALTIES, RunFolder, small_study, train_run

from vestige.errors import DataError, VestigeError
from vestige.training.processes import Processes, joined

HERE = Path(__file__).parent
NET = f"{HERE / 'group_norm_net.py'}:Net"
MODES = {
    "none": None,
    **PENALTIES,
    "selectivity, matched": {"kind": "selectivity", "dose": "matched"},
    "eta2, matched": {"kind": "eta2", "dose": "matched", "share": 0.2},
    "noise": {"kind": "noise"},
    "lr": {"kind": "lr", "factor": 0.3},
    "clamp": {"kind": "clamp", "table": str(HERE / "clamped.csv")},
}
EPOCHS = {"none": 9}
"""Of six steps: five batches of 9 images, which do not divide, and one of a single image."""


def study(interventions, epochs=1, **data):
    return small_study(
        interventions,
        data={"limit": 46, **data},
        model={"name": NET},
        recipe={"batch_size": 9, "epochs": epochs, "momentum": 0.0},
    )


def run(mode, folder: Path, follow: Path | None = None):
    recorder = {"kind": f"{HERE / 'recorder.py'}:Recorder", "settings": {"folder": str(folder / "steps")}}
    if follow is not None:
        recorder["settings"]["follow"] = str(follow / "steps")
    acting = [one for one in (MODES[mode], recorder) if one]
    train(study(acting, EPOCHS.get(mode, 1)), folder)


def train(shared, folder: Path):
    train_run(shared, "changed", 0, RunFolder(folder), key="k", settings={})


def failure(action):
    try:
        action()
    except VestigeError as error:
        return str(error)
    return "no failure"


def fail_in(rank, processes: Processes):
    if processes.rank == rank:
        raise DataError("reading an image", found=f"a bad one in process {rank}", remedy="Mend it")


def main(one: Path, two: Path) -> None:
    torch.set_num_threads(1)
    with joined() as processes:
        said = [failure(lambda: processes.together(lambda: fail_in(1, processes)))]
        said.append(failure(lambda: processes.at_first(lambda: fail_in(0, processes))))
        for name in ("Uneven", "Drifting"):
            acting = {"kind": f"{HERE / 'recorder.py'}:{name}"}
            said.append(failure(lambda acting=acting, name=name: train(study([acting]), two / name)))
        (two / f"said-{processes.rank}.txt").write_text("\n".join(said))
        for mode in MODES:
            run(mode, two / mode, one / mode)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
