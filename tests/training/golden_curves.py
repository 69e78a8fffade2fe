"""Golden loss curves: what training with each intervention gave when it was last looked at.

`python tests/training/golden_curves.py --write` makes them again; look at the difference before committing.
"""

import argparse
import json
import tempfile
from pathlib import Path

import polars as pl
from small_runs import INTERVENTIONS, given, small_study, train

LEFT_OUT = ("own", "offset-sham")  # the sham ends its search at a tolerance, which rounding may shift
MODES = {"baseline": None, **{mode: one for mode, one in INTERVENTIONS.items() if mode not in LEFT_OUT}}
ALPHA = ("selectivity", "eta2")
WINDOWS = {"rewind": {"start": 3}}
KEPT = (".penalty", ".csi", ".eta2")
FILE = Path(__file__).parent / "golden" / "curves.json"


def curve(mode: str, folder: Path) -> dict[str, list[float]]:
    """Train and test loss by checkpoint, and what the intervention logged.

    Learning rate and alpha are small, so that rounding, which differs between processors, stays small too;
    `closed` is left out, since a value at the edge of a gate may fall on either side.
    """
    chosen = MODES[mode]
    interventions = []
    if chosen:
        alpha = {"alpha": -5.0} if chosen["kind"] in ALPHA else {}
        interventions = [{**chosen, **alpha, "window": WINDOWS.get(mode, {})}]
    study = small_study(interventions, recipe={"lr": 0.01, "batch_size": 20})
    history = pl.read_parquet(train(study, folder, "changed", seed=1, given=given()).history)
    losses = {split: history.filter(split=split)["loss"].to_list() for split in ("train", "test")}
    logged = {name: history[name].drop_nulls().to_list() for name in history.columns if name.endswith(KEPT)}
    return losses | logged


def main() -> None:
    """Compare with the file, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the curves of this machine as golden")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        curves = {mode: curve(mode, Path(folder) / str(i)) for i, mode in enumerate(MODES)}
    if arguments.write:
        FILE.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
        return
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    for mode, columns in golden.items():
        for name, values in columns.items():
            pairs = zip(values, curves[mode][name], strict=True)
            print(f"{mode:24} {name:24} {max(abs(a - b) / abs(a) for a, b in pairs):.1e}")


if __name__ == "__main__":
    main()
