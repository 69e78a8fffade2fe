"""Take pictures of a report in headless Chromium: at three widths, light and dark, as WebP.

python docs/images/screenshots.py STUDY/report/index.html docs/images

A picture shows the top of the page and of some sections (`--sections`), `--height` pixels of each. `--whole` takes the
whole page, and a neuron's, in pieces of that height, to be looked at.
"""

import argparse
import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

WIDTHS = (380, 1280, 2560)
DRAWN = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const full = plot => plot.querySelector(".main-svg .trace, .main-svg .points");
  for (const plot of [...document.querySelectorAll(".plot")].filter(one => one.offsetWidth)) {
    const began = performance.now();
    plot.scrollIntoView({ behavior: "instant", block: "center" });
    while (!full(plot) && performance.now() - began < 20000) await frame();
  }
  scrollTo({ top: 0, behavior: "instant" });
  await frame(); await frame();
  return { wide: document.documentElement.scrollWidth, high: document.documentElement.scrollHeight };
}"""
EDGES = """id => { const box = document.getElementById(id).getBoundingClientRect();
  return [box.top + scrollY, box.bottom + scrollY]; }"""
MARGIN, CUT = 24, 2


def main() -> None:
    """Write the pictures, and print how large each is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="index.html of a report")
    parser.add_argument("folder", type=Path, help="where the pictures go: report-WIDTH-light.webp, ...")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--sections", nargs="+", default=("verdicts", "F1", "neurons"), help="their ids")
    parser.add_argument("--height", type=int, default=780, help="pixels")
    parser.add_argument("--quality", type=int, default=30, help="of WebP, 0 to 100")
    parser.add_argument("--whole", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, image in pictures(given):
        path = given.folder / f"{name}.webp"
        image.save(path, quality=given.quality, method=6)
        print(f"{path}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


def pictures(given: argparse.Namespace) -> Iterator[tuple[str, Image.Image]]:
    """Each picture and its name."""
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width in given.widths:
            for scheme in ("light", "dark"):
                name = f"report-{width}-{scheme}"
                height = round(width * 0.625) if width > 600 else 800
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto(given.report.resolve().as_uri())
                size = page.evaluate(DRAWN)
                assert size["wide"] <= width, f"the page scrolls sideways at {width} px: {size['wide']}"
                if given.whole:
                    yield from pieces(name, taken(page, width, 0, size["high"]), given.height)
                    yield from pieces(f"{name}-neuron", of_a_neuron(page, width), given.height)
                else:
                    yield name, of_sections(page, width, given.sections, given.height)
                page.close()
        browser.close()


def of_sections(page: Any, width: int, sections: Sequence[str], height: int) -> Image.Image:
    """The beginnings of some sections below each other, a line between them, the first from the top of the page."""
    parts = []
    for name in sections:
        top, bottom = page.evaluate(EDGES, name)
        top = top - MARGIN if parts else 0
        parts.append(taken(page, width, top, min(height, bottom + MARGIN - top)))
    joined = Image.new("RGB", (width, sum(part.height + CUT for part in parts) - CUT), "grey")
    for number, part in enumerate(parts):
        joined.paste(part, (0, sum(one.height + CUT for one in parts[:number])))
    return joined


def taken(page: Any, width: int, top: float, height: float) -> Image.Image:
    """A part of the page, as wide as it is."""
    clip = {"x": 0, "y": int(top), "width": width, "height": int(height)}
    return Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip))).convert("RGB")


def pieces(name: str, image: Image.Image, height: int) -> Iterator[tuple[str, Image.Image]]:
    """A long picture, cut into shorter ones."""
    for number, top in enumerate(range(0, image.height, height), 1):
        yield f"{name}-{number}", image.crop((0, top, image.width, min(image.height, top + height)))


def of_a_neuron(page: Any, width: int) -> Image.Image:
    """The page of the first neuron in the table."""
    page.locator("[data-neurons=grid]").scroll_into_view_if_needed()
    page.locator("[data-neurons=body] tr[data-place]").first.click()
    page.wait_for_selector("#neuron-page:not([hidden])")
    size = page.evaluate(DRAWN)
    return taken(page, width, 0, size["high"])


if __name__ == "__main__":
    main()
