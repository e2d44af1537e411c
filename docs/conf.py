"""Where fastgate is installed with its extra `docs`: sphinx-build -W --keep-going -b html docs build/docs"""

import fastgate

project = "fastgate"
author = copyright = "The fastgate authors"
version = release = fastgate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_param = False  # or the names in shapes become links
napoleon_use_rtype = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"fastgate {release}"
html_copy_source = False
