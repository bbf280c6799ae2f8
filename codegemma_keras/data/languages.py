"""What the pipeline knows of each language: extensions, comments, parsers, test names.

One table. A file's language follows from its name alone: a guess from the contents
would make the result depend on a classifier.
"""

import dataclasses
import functools
import posixpath
import re

from codegemma_keras.data.document import require


@dataclasses.dataclass(frozen=True)
class Language:
    """One language.

    Attributes:
        name: str.
        extensions: of its files, with the dot.
        comment: what opens a comment up to the line's end, or None.
        block: what opens and closes a block comment, or None.
        grammar: `(module, function)` of the tree-sitter wheel, or None.
        tests: patterns of test names with a group for the tested name, in order.
    """

    name: str
    extensions: tuple[str, ...]
    comment: str | None = None
    block: tuple[str, str] | None = None
    grammar: tuple[str, str] | None = None
    tests: tuple[str, ...] = ()


_C = ("/*", "*/")
_CAMEL = (r"(?:Test|IT)([A-Z]\w*)", r"(\w+?)[._]?(?:Tests?|IT|Specs?)")
_SNAKE = (r"test_(\w+)", r"(\w+?)_(?:unit)?tests?")
_JS = (r"(.+)[._-](?:tests?|spec)", r"tests?[._-](.+)")
_CPP = (r"(?:unit_?)?tests?[_-](.+)", r"unit[_-](.+)", r"(.+?)[._-](?:unit_?)?tests?")
# Folders that hold tests and what tests need: `tests`, `__tests__`, `jvmTest`, `A.Tests`.
_TEST_FOLDER = re.compile(r"_*(?:tests?|specs?)_*|.*[a-z]Tests?|.*[._-][Tt]ests?")

LANGUAGES = {
    language.name: language
    for language in (
        Language(
            "python",
            (".py", ".pyi", ".pyw"),
            "#",
            grammar=("tree_sitter_python", "language"),
            tests=_SNAKE,
        ),
        Language(
            "javascript",
            (".js", ".jsx", ".mjs", ".cjs"),
            "//",
            _C,
            ("tree_sitter_javascript", "language"),
            _JS,
        ),
        Language(
            "typescript",
            (".ts", ".mts", ".cts"),
            "//",
            _C,
            ("tree_sitter_typescript", "language_typescript"),
            _JS,
        ),
        Language(
            "tsx", (".tsx",), "//", _C, ("tree_sitter_typescript", "language_tsx"), _JS
        ),
        Language(
            "java", (".java",), "//", _C, ("tree_sitter_java", "language"), _CAMEL
        ),
        Language(
            "kotlin",
            (".kt", ".kts"),
            "//",
            _C,
            ("tree_sitter_kotlin", "language"),
            _CAMEL,
        ),
        Language(
            "go", (".go",), "//", _C, ("tree_sitter_go", "language"), (r"(\w+)_test",)
        ),
        Language("rust", (".rs",), "//", _C, ("tree_sitter_rust", "language"), _SNAKE),
        Language(
            "cpp",
            (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".hxx", ".inl"),
            "//",
            _C,
            ("tree_sitter_cpp", "language"),
            (*_CPP, *_CAMEL),
        ),
        Language(
            "csharp",
            (".cs",),
            "//",
            _C,
            ("tree_sitter_c_sharp", "language"),
            _CAMEL,
        ),
        # Read and trained on, but without a graph.
        Language("shell", (".sh", ".bash"), "#"),
        Language("ruby", (".rb",), "#", tests=_SNAKE),
        Language("php", (".php",), "//", _C, tests=_CAMEL),
        Language("swift", (".swift",), "//", _C, tests=_CAMEL),
        Language("scala", (".scala",), "//", _C, tests=_CAMEL),
        Language("sql", (".sql",), "--", _C),
        Language("proto", (".proto",), "//", _C),
        Language("markdown", (".md", ".markdown")),
        Language("rst", (".rst",)),
        Language("text", (".txt",)),
        Language("toml", (".toml",), "#"),
        Language("yaml", (".yaml", ".yml"), "#"),
        Language("json", (".json",)),
        Language("html", (".html", ".htm")),
        Language("css", (".css",), None, _C),
    )
}
_BY_EXTENSION = {e: x.name for x in LANGUAGES.values() for e in x.extensions}
# What the code part of a corpus is made of by default; prose is its own corpus.
CODE = tuple(x.name for x in LANGUAGES.values() if x.grammar) + (
    "shell",
    "ruby",
    "php",
    "swift",
    "scala",
    "sql",
    "proto",
)
PROSE = ("markdown", "rst", "text")
# Languages that import each other.
FAMILY = {"tsx": "javascript", "typescript": "javascript", "kotlin": "java"}


def language_of(path: str) -> str:
    """The language of a file by its extension, or `""`."""
    return _BY_EXTENSION.get(posixpath.splitext(path)[1].lower(), "")


def family(language: str) -> str:
    """Languages whose files may import each other share one family."""
    return FAMILY.get(language, language)


@functools.cache
def parser(language: str):
    """A tree-sitter parser, or None where there is no grammar.

    Raises:
        ImportError: the grammar's wheel is not installed.
    """
    entry = LANGUAGES.get(language)
    if entry is None or entry.grammar is None:
        return None
    tree_sitter = require("tree_sitter")
    module, function = entry.grammar
    grammar = getattr(require(module), function)()
    return tree_sitter.Parser(tree_sitter.Language(grammar))


def split_name(path: str) -> tuple[str, str]:
    """`(folder, name without any known extension)`; `.d` of `.d.ts` goes, too."""
    folder, name = posixpath.split(path)
    stem = posixpath.splitext(name)[0]
    return folder, stem[:-2] if stem.endswith(".d") else stem


@functools.cache
def _test_patterns(language):
    entry = LANGUAGES.get(language)
    return [re.compile(p) for p in entry.tests] if entry else []


def tested_name(path: str, language: str) -> str | None:
    """The name of what a test file tests, by the language's habit; None: no test.

    `test_x.py -> x`, `FooTest.java -> Foo`, `a.spec.ts -> a`, `b_test.go -> b`.
    """
    folder, stem = split_name(path)
    for pattern in _test_patterns(language):
        if match := pattern.fullmatch(stem):
            return match[1]
    # Jest's habit: `__tests__/a.js`.
    return stem if posixpath.basename(folder) == "__tests__" else None


def is_test(path: str, language: str) -> bool:
    """Whether a file is a test, or lies in a folder of tests."""
    return tested_name(path, language) is not None or any(
        _TEST_FOLDER.fullmatch(part) for part in path.split("/")[:-1]
    )


def plain_name(name: str) -> str:
    """A name without case and separators: `create-date-column` is `CreateDateColumn`."""
    return re.sub(r"[\W_]", "", name).lower()
