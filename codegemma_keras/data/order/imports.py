"""What a file imports and declares; what a build file says.

Sources are parsed with tree-sitter: nothing is executed, and a file with errors gives what
its sound parts hold. `families/` has one module per family of languages that import each
other: how their imports are read, and which files they mean.

Left out: uses without an import statement (files of one Java or Go package see each
other), which would need name resolution of the whole language.
"""

from codegemma_keras.data.languages import family
from codegemma_keras.data.order.build_files import build_reader
from codegemma_keras.data.order.facts import KINDS, Facts, Import
from codegemma_keras.data.order.families import FAMILIES
from codegemma_keras.data.order.syntax import Source

__all__ = ["KINDS", "TOP_LINES", "Facts", "Import", "read_facts", "tells_order"]

# Lines of a file that are read for imports; None reads all. The paper does not publish
# its number; parsing whole files costs less than tokenizing them, and misses nothing.
TOP_LINES = None


def tells_order(path: str, language: str) -> bool:
    """Whether `read_facts` finds anything in a file: imports, or what a build file says.

    All such files of a repository belong into `order_files`, also those that are not
    trained on: an empty `__init__.py` or a go.mod decides what imports mean.
    """
    return family(language) in FAMILIES or build_reader(path) is not None


def read_facts(
    text: str, path: str, language: str, top_lines: int | None = TOP_LINES
) -> Facts:
    """The imports and declarations of a file, or what a build file says.

    Args:
        text: the file.
        path: in its repository.
        language: as in `languages.LANGUAGES`; one without a family has no imports.
        top_lines: read imports of so many lines at the top; None reads all.
    """
    if (reader := build_reader(path)) is not None:
        return Facts(path, language, build=reader(text))
    rules = FAMILIES.get(family(language))
    if rules is None:
        return Facts(path, language)
    query = rules.QUERIES[language]
    return rules.read(Source.parse(path, language, text, query, top_lines))
