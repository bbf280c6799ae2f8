"""Formulas of the site as MathML, which browsers show without a script.

A hook of MkDocs, named in mkdocs.yml. `pymdownx.arithmatex` finds the formulas in the
Markdown and marks them; here LaTeX becomes MathML. So a page needs no other server.

Left out: numbers and references of equations.
"""

import html
import re

MARKED = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)
# A name such as `log` gets no space before its argument in MathML.
NAME = re.compile(r"\\(log|exp|max|min) (?=[a-z\\])")


def in_mathml(page):
    """The HTML of a page with its formulas in MathML.

    Raises:
        ValueError: LaTeX that cannot be read.
    """
    from latex2mathml.converter import convert

    def made(match):
        latex = NAME.sub(r"\\\1\\, ", html.unescape(match[3]))
        try:
            return convert(latex, display="block" if match[2] == "[" else "inline")
        except Exception as error:
            raise ValueError(
                f"The formula {latex!r} cannot be read: {error!r}"
            ) from error

    return MARKED.sub(made, page)


def formulas_left(page):
    """The formulas of a page's HTML that a reader would see as LaTeX."""
    code = re.compile(r"<(code|pre)\b.*?</\1>", re.DOTALL)
    text = code.sub("", page)
    return re.findall(r"\\[(\[].{,60}|\$[^$<]*\\[a-z]+[^$<]*\$", text)


def on_page_content(content, **_):
    """MkDocs: the HTML of each page, before it is put into the theme."""
    return in_mathml(content) if 'class="arithmatex"' in content else content
