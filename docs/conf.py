"""How Sphinx builds the site: `make docs`. Nothing is fetched, neither by the build nor by the pages."""

project = "clbench"
author = "the clbench authors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "clbench"
html_show_sphinx = False
html_copy_source = False
nitpicky = True
myst_heading_anchors = 4  # page.md#heading, as on a forge
exclude_patterns = ["_build"]
OPTIONAL = ("avalanche", "mammoth")
"""Pages of the index that may be missing."""


def _leave_out_missing(app, page, source):
    """A table of contents may not name a page that is not there."""
    if page == "index":
        for name in OPTIONAL:
            if name not in app.env.found_docs:
                source[0] = source[0].replace(f"\n{name}\n", "\n")


def setup(app):
    app.connect("source-read", _leave_out_missing)
