"""What every page needs: the templates, the drawing library to put inside, numbers as they are shown in tables."""

from importlib.resources import files
from typing import TYPE_CHECKING

from vestige.report.style import number

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def environment() -> "Environment":
    """Templates that escape whatever is put into them, and fail where something is missing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("vestige.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["cell"] = _cell
    made.filters["coded"] = coded
    return made


def plotly_source() -> str:
    """plotly's JavaScript, so that a page loads nothing from anywhere."""
    return files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")


def coded(text: str) -> "Markup":
    """A text with what stands in `backticks` as code, and all else escaped."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return coded(value)
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else number(value, 4)
