"""The documentation site: ``make docs`` builds it into docs/_build/html."""

import importlib.metadata

project = "calojax"
author = "The calojax developers"
release = importlib.metadata.version("calojax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
# Names in single backticks become links where they are documented.
default_role = "py:obj"
# Code blocks without a language are commands.
highlight_language = "none"

html_theme = "furo"
html_title = f"calojax {release}"
html_static_path: list[str] = []
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Notebooks run at every build, so that their pictures are those of the current version.
nb_execution_mode = "force"
nb_execution_timeout = 3600  # seconds for a cell, on a busy machine
nb_execution_raise_on_error = True
nb_output_stderr = "remove"  # progress bars

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
