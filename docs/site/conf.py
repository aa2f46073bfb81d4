"""Sphinx settings of the documentation site; build.py runs Sphinx with them."""

import re

project = "Relay policy runtime"
author = "The relay-policy authors"
copyright = "2026, the relay-policy authors. Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
smartquotes = False  # they turn the dashes of --option into one
default_role = "literal"
highlight_language = "none"

add_module_names = False
toc_object_entries = False  # the contents of a page: its modules
python_use_unqualified_type_names = True
python_display_short_literal_types = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = project
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False

# What reStructuredText reads as markup and our docstrings mean as text: *args, |x|, name_.
_MARKUP = re.compile(r"(`[^`]*`)(?=(\w?))|([*|]|_(?=\W|$))")

_SECTIONS = ("Args:", "Returns:", "Yields:", "Raises:")  # napoleon lays these out


def as_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code`, lists and indented formulas or tables."""
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(map(_paragraph, paragraphs)).split("\n")


def _paragraph(text):
    if re.search(r"^\s", text, re.MULTILINE) and not text.startswith(("- ", *_SECTIONS)):
        return "::\n\n" + re.sub(r"^", "    ", text, flags=re.MULTILINE)  # the layout of its lines means something
    return _MARKUP.sub(_escaped, text)


def _escaped(found):
    if found[1]:
        return found[1] + ("\\ " if found[2] else "")  # `code`s
    return "\\" + found[3]


def setup(app):
    app.connect("autodoc-process-docstring", as_text, priority=400)  # before napoleon
