"""How the documentation is built: `python -m sphinx -W -b html docs build`, with the extra `docs` installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generating

import vestige

project = "vestige"
author = "The vestige developers"
release = version = vestige.__version__
project_copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["build", "_build"]
source_suffix = {".md": "myst-nb"}

html_theme = "pydata_sphinx_theme"
html_title = f"vestige {release}"
html_show_sphinx = False
html_theme_options = {
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "show_nav_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

myst_enable_extensions = ["fieldlist"]
myst_heading_anchors = 4
nb_execution_mode = "auto"  # the notebook stores no output: it runs at every build
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
default_role = "code"  # docstrings say `name` and mean code
maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

setup = generating.setup
