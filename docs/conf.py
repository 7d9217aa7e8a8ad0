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
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["pages.css"]
