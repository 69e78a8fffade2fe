"""What the report of a large study costs: 15,104 neurons x 1000 classes x 30 checkpoints x 5 seeds, synthetic.

    python bench/report.py [--home FOLDER] [--neurons 15104] [--classes 1000] [--steps 30] [--seeds 5]

Builds in under 2 minutes and 4 GiB, opens in under 3 s, filtering and scrolling answer within 100 ms. Tables are
written as a study has them (one file a run and checkpoint) and read by the process that builds, whose wall time and
peak memory are printed. Class means, top inputs and damage by class are there at 6 checkpoints of each seed, as a study
keeps them (each the same file under another name). The page is opened from disk in headless Chromium by Playwright; an
answer is the time from the event to the second animation frame after it, when what was drawn is on the screen.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from memory import peak_memory
from vestige.config import parse_study
from vestige.report.neurons.portraits import Portraits, Sheets
from vestige.report.page import write_report
from vestige.runs.manifest import Artifact, Manifest
from vestige.runs.retention import kept_steps
from vestige.runs.store import StudyFolder
from vestige.runs.tables import SCHEMAS, conform

KINDS = ("selectivity", "ablation", "linearity", "history")
LARGE = ("class-means", "top-inputs", "ablation-by-class/zero", "ablation-by-class/mean")
INPUTS, IMAGES = 8, 50_000


def layers_of(neurons: int) -> list[tuple[str, str, int]]:
    """ResNet-50's 16 blocks, scaled."""
    widths = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    blocks = [f"layer{stage}.{block}" for stage, n in enumerate((3, 4, 6, 3), 1) for block in range(n)]
    scale = neurons / sum(widths)
    return [(name.split(".")[0], name, max(2, round(w * scale))) for name, w in zip(blocks, widths, strict=True)]


def study_of(seeds: int):
    return parse_study(
        {"name": "large", "seeds": list(range(seeds)), "claims": {"early_window": 2000}, "recipe": {"epochs": 90}},
        source="bench",
    )


def steps_of(n: int) -> list[int]:
    return sorted({0, *np.unique(np.geomspace(1, 450_000, 3 * n).round().astype(int))[::3][: n - 1].tolist()})


def make(home: Path, neurons: int, classes: int, steps: int, seeds: int) -> None:
    """Write the tables of a study that nobody ran."""
    layers, rng = layers_of(neurons), np.random.default_rng(0)
    known = pl.concat([pl.DataFrame({"stage": s, "layer": name, "neuron": range(u)}) for s, name, u in layers])
    kept, made = kept_steps(steps_of(steps), 6), {}
    for seed in range(seeds):
        for step in steps_of(steps):
            about = {"condition": "baseline", "seed": seed, "step": step, "epoch": step / 5005, "n": IMAGES}
            about |= {"protocol": "corrected", "dataset": "folder:val", "split": "test"}
            frames = {"selectivity": selectivity(known, rng, classes), "ablation": ablation(known, rng, classes)}
            frames["history"] = pl.DataFrame({"split": "test", "loss": 2.0, "top1": 0.5, "top5": 0.8, "lr": 0.1})
            frames["linearity"] = linearity(layers)
            if step in kept:
                frames |= dict.fromkeys(LARGE) if made else portraits(known, rng, classes)
            for kind, frame in frames.items():
                schema = kind.partition("/")[0]
                path = home / "tables" / kind / f"seed-{seed}" / f"step-{step:08d}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                first = made.setdefault(kind, path) if kind in LARGE else path
                if first != path:
                    path.hardlink_to(first)
                    continue
                assert frame is not None
                wanted = {k: v for k, v in about.items() if k in SCHEMAS[schema] and k not in frame.columns}
                conform(frame, schema, **wanted).write_parquet(path, compression="zstd", statistics=False)
    pixels = rng.integers(0, 255, (512, 512, 3), dtype=np.uint8)
    from PIL import Image

    Image.fromarray(pixels).resize((64, 64)).resize((512, 512)).save(home / "sheet.jpg", quality=85)


def selectivity(known: pl.DataFrame, rng: np.random.Generator, classes: int) -> pl.DataFrame:
    n, schema = len(known), SCHEMAS["selectivity"]
    numbers = {name: rng.random(n, dtype=np.float32) for name, dtype in schema.items() if dtype == pl.Float32}
    numbers["p_value"] **= 8
    whole = {name: rng.integers(0, classes, n) for name in ("preferred_class", "second_class", "k")}
    said = {"selective": rng.random(n) < 0.3, "dead": rng.random(n) < 0.01, "rectify": "none", "mode": "streamed"}
    return known.with_columns(**{name: pl.Series(v) for name, v in (numbers | whole).items()}).with_columns(
        **{name: pl.lit(v) if isinstance(v, str) else pl.Series(v) for name, v in said.items()}
    )


def ablation(known: pl.DataFrame, rng: np.random.Generator, classes: int) -> pl.DataFrame:
    n, schema = len(known), SCHEMAS["ablation"]
    frames = []
    for value in ("zero", "mean"):
        numbers = {name: pl.Series(rng.normal(0, 1e-3, n)) for name, dtype in schema.items() if dtype == pl.Float32}
        preferred = pl.Series(rng.integers(0, classes, n))
        frames.append(
            known.with_columns(**numbers, preferred_class=preferred, value=pl.lit(value), mode=pl.lit("controlled"))
        )
    return pl.concat(frames)


def linearity(layers: list[tuple[str, str, int]]) -> pl.DataFrame:
    rows = [("midpoint", name, "", 0.5, 0.0) for name in (*(name for _, name, _ in layers), "logits")]
    return pl.DataFrame(rows, schema=["measure", "layer", "other", "value", "anchor"], orient="row")


def portraits(known: pl.DataFrame, rng: np.random.Generator, classes: int) -> dict[str, pl.DataFrame]:
    n = len(known)
    means = known.with_columns(pl.Series("class_means", rng.random((n, classes), dtype=np.float32)).arr.to_list())
    rows = known.join(pl.DataFrame({"rank": range(INPUTS)}), how="cross")
    top = rows.with_columns(
        input=pl.Series(rng.integers(0, IMAGES, len(rows))),
        label=pl.Series(rng.integers(0, classes, len(rows))),
        activation=pl.Series(rng.random(len(rows))),
    )
    rows = known.join(pl.DataFrame({"class": pl.Series(range(classes), dtype=pl.Int32)}), how="cross")
    found = {"class-means": means, "top-inputs": top}
    for value in ("zero", "mean"):
        harm = pl.Series(rng.standard_normal(len(rows), dtype=np.float32))
        found[f"ablation-by-class/{value}"] = rows.with_columns(
            value=pl.lit(value),
            mode=pl.lit("controlled"),
            class_n=pl.lit(50),
            class_loss_delta=harm,
            class_top1_delta=0.0,
        )
    return found


def build(home: Path, seeds: int, steps: int) -> None:
    """Read the tables as `vestige report` does, write the report, and print what it took."""
    began = time.perf_counter()
    tables = {
        kind: pl.concat(
            [
                pl.read_parquet(sorted((home / "tables" / kind / f"seed-{seed}").glob("*.parquet")))
                for seed in range(seeds)
            ]
        )
        for kind in KINDS
    }
    read = time.perf_counter() - began
    whole = {step: (step / 5005, Artifact("k", 1, "0", 0.0)) for step in steps_of(steps)}
    manifests = {
        ("baseline", seed): Manifest(key="k", complete=True, seconds=1.0, checkpoints=whole) for seed in range(seeds)
    }

    def files(*kinds: str) -> dict[tuple[str, int], dict[int, tuple[Path, ...]]]:
        found = {("baseline", seed): {} for seed in range(seeds)}
        for seed in range(seeds):
            for step in kept_steps(steps_of(steps), 6):
                name = f"seed-{seed}/step-{step:08d}.parquet"
                found["baseline", seed][step] = tuple(home / "tables" / kind / name for kind in kinds)
        return found

    sheets = Sheets(64, 8, 64, dict.fromkeys(range(-(-IMAGES // 64)), home / "sheet.jpg"))
    damage = files("ablation-by-class/zero", "ablation-by-class/mean")
    means = files("class-means")
    n_classes = len(pl.read_parquet(means["baseline", 0][0][0], n_rows=1)["class_means"][0])
    portraits = Portraits(tuple(f"class {i}" for i in range(n_classes)), means, files("top-inputs"), damage, sheets)
    write_report(StudyFolder(home), study_of(seeds), tables, None, manifests, portraits)
    took, peak = time.perf_counter() - began, peak_memory() / 2**30
    size = sum(path.stat().st_size for path in (home / "report").rglob("*") if path.is_file())
    page = (home / "report" / "index.html").stat().st_size
    print(
        f"built in {took:.1f} s ({read:.1f} s of it reading; {time.process_time():.1f} s of processor), "
        f"peak {peak:.2f} GiB, page {page / 2**20:.1f} MiB, all {size / 2**20:.0f} MiB"
    )


ANSWER = """
(act) => new Promise(done => {
  const began = performance.now();
  eval(act);
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - began)));
})
"""
"""Two frames: what the event caused is drawn in the first, and on the screen in the second."""
FILTER = (
    "const f = document.querySelector('[data-neurons=filter]'); f.value = '{}'; f.dispatchEvent(new Event('input'))"
)
FIGURES = """
async () => {
  const took = [];
  for (const plot of [...document.querySelectorAll(".plot")].filter(one => one.offsetWidth)) {
    const began = performance.now();
    plot.scrollIntoView({ behavior: "instant" });
    while (!plot.querySelector(".main-svg .trace, .main-svg .points")) {
      await new Promise(requestAnimationFrame);
      if (performance.now() - began > 30000) throw new Error(`${plot.ariaLabel} is not drawn`);
    }
    took.push(performance.now() - began);
  }
  return [Math.max(0, ...took), took.length];
}
"""
SCROLL = "document.querySelector('[data-neurons=scroll]').scrollTop = {}"
SORT = "document.querySelector('[data-sort=\"{}\"]').click()"


def look(home: Path) -> None:
    """Open the page from disk, filter, sort, scroll and open neurons; print how long each took."""
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        page.on("request", lambda one: asked.append(one.url))
        began = time.perf_counter()
        page.goto((home / "report" / "index.html").as_uri())
        page.wait_for_selector("#neuron-browser[data-ready]", state="attached")
        print(f"opens in {time.perf_counter() - began:.2f} s (until the table of neurons is filled)")
        print("figures, from scrolled to until drawn: slowest {:.0f} ms of {}".format(*page.evaluate(FIGURES)))
        page.evaluate("document.getElementById('neurons').scrollIntoView({ behavior: 'instant' })")
        filters = ["csi > 0.3", "csi > 0.3 layer3", "csi > 0.3, eta2 < 0.1, class 7", "p < 0.01", ""]
        tries = {
            "two frames and no event, on this machine as busy as it is": ["0"] * 20,
            "filtering": [FILTER.format(text) for text in filters for _ in range(4)],
            "sorting": [SORT.format(column) for column in ("csi", "eta2", "preferred_class", "") for _ in range(4)],
            "scrolling": [SCROLL.format(place) for place in np.linspace(0, 480_000, 40).astype(int)],
        }
        for what, acts in tries.items():
            took = sorted(page.evaluate(ANSWER, act) for act in acts)
            print(f"{what}: median {took[len(took) // 2]:.0f} ms, longest {took[-1]:.0f} ms (n = {len(took)})")
        for name, go in {
            "another checkpoint": lambda: page.select_option('[data-neurons="step"]', index=3),
            "a neuron": lambda: page.evaluate("location.hash = '#neuron=layer3.2/17'"),
        }.items():
            began = time.perf_counter()
            go()
            page.wait_for_selector('[data-neurons="scroll"]:not([aria-busy])', state="attached")
            if name == "a neuron":
                page.wait_for_selector("#neuron-title")
            print(f"{name}: {time.perf_counter() - began:.2f} s")
        page.screenshot(path=str(home / "neuron.png"), full_page=True)
        away = [url for url in asked if not url.startswith(("file://", "data:"))]
        print(f"{len(asked)} files read, {len(away)} network requests")
        chromium.close()


def main() -> None:
    """Make the tables where they are missing, build in a process of its own, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("large-study"))
    parser.add_argument("--part", choices=["all", "make", "build", "look"], default="all")
    for name, value in {"neurons": 15_104, "classes": 1000, "steps": 30, "seeds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    if given.part in ("all", "make") and not (given.home / "made.json").exists():
        make(given.home, given.neurons, given.classes, given.steps, given.seeds)
        (given.home / "made.json").write_text(json.dumps(vars(given), default=str))
    if given.part == "build":
        build(given.home, given.seeds, given.steps)
    if given.part == "all":
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", "build"], check=True)
    if given.part in ("all", "look"):
        look(given.home)


if __name__ == "__main__":
    main()
