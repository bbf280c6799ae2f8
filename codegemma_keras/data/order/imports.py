"""What a file imports and declares, found with tree-sitter; one pass per language.

Only syntax is read: nothing is executed, and a file with errors gives what its sound
parts hold. `resolve.py` turns the statements into files.

Left out: uses without an import statement (files of one Java or Go package see each
other), which would need name resolution of the whole language.
"""

import collections
import dataclasses
import functools
import re

from codegemma_keras.data.document import require
from codegemma_keras.data.languages import family, parser

# Lines of a file that are read for imports; None reads all. The paper does not publish
# its number; parsing whole files costs less than tokenizing them, and misses nothing.
TOP_LINES = None

# kind -> when the import is carried out.
KINDS = (
    "module",  # as the file is loaded
    "guarded",  # the same, inside `try` or `if`
    "deferred",  # inside a function
    "type",  # for type checkers only
    "child",  # Rust's `mod x;`: the parent names its parts
)


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of one module.

    Attributes:
        module: str, as written (`a.b`, `./x`, `a/b.h`, `crate::a::b`); without leading
            dots in Python.
        names: what is taken from it; `("*",)` for all; `()` for the module itself.
        level: leading dots in Python; else 0.
        kind: one of `KINDS`.
        locals: names by which the file refers to it, for counting uses.
        quoted: False for C's `#include <...>`.
    """

    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    kind: str = "module"
    locals: tuple[str, ...] = ()
    quoted: bool = True


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the graph needs of one file; a hundredth of its text.

    Attributes:
        path: str, in the repository.
        language: str.
        imports: tuple of `Import`.
        package: its package or namespaces, as declared.
        declares: names declared at the top level, where `resolve` asks for them.
        uses: `{name: occurrences}` of the names that decide the importance of edges;
            all names in languages that import whole packages.
    """

    path: str
    language: str = ""
    imports: tuple[Import, ...] = ()
    package: tuple[str, ...] = ()
    declares: frozenset[str] = frozenset()
    uses: dict = dataclasses.field(default_factory=dict)


_QUERIES = {
    "python": """
        (import_statement) @import
        (import_from_statement) @import""",
    "javascript": """
        (import_statement source: (string)) @import
        (export_statement source: (string)) @import
        (call_expression function: (identifier) @_f arguments: (arguments . (string))
          (#any-of? @_f "require" "jest.mock")) @call
        (call_expression function: (import) arguments: (arguments . (string))) @call""",
    "java": """
        (package_declaration) @package
        (import_declaration) @import
        (program (_ name: (identifier) @declares))""",
    "kotlin": """
        (package_header (qualified_identifier) @package)
        (import) @import
        (source_file (_ name: (identifier) @declares))
        (source_file (property_declaration
          (variable_declaration (identifier) @declares)))
        (source_file (type_alias type: (identifier) @declares))""",
    "go": """
        (package_clause (package_identifier) @package)
        (import_spec) @import
        (source_file (function_declaration name: (identifier) @declares))
        (source_file (type_declaration (_ name: (type_identifier) @declares)))
        (source_file (var_declaration (var_spec name: (identifier) @declares)))
        (source_file (var_declaration (var_spec_list
          (var_spec name: (identifier) @declares))))
        (source_file (const_declaration (const_spec name: (identifier) @declares)))""",
    "rust": """
        (use_declaration argument: (_) @import)
        (mod_item !body name: (identifier) @child)""",
    "cpp": "(preproc_include path: (_) @import)",
    "csharp": """
        (using_directive) @import
        (namespace_declaration name: (_) @package)
        (file_scoped_namespace_declaration name: (_) @package)
        (class_declaration name: (identifier) @declares)
        (interface_declaration name: (identifier) @declares)
        (struct_declaration name: (identifier) @declares)
        (enum_declaration name: (identifier) @declares)
        (record_declaration name: (identifier) @declares)""",
}
_QUERIES["typescript"] = (
    _QUERIES["javascript"]
    + """
        (import_statement (import_require_clause source: (string))) @import"""
)
_QUERIES["tsx"] = _QUERIES["typescript"]
_WORD = re.compile(r"[^\W\d]\w*")
# Languages in which an import names a package of several files.
_WHOLE_PACKAGES = frozenset(("java", "kotlin", "go", "csharp"))


@functools.cache
def _query(language):
    tree_sitter = require("tree_sitter")
    return tree_sitter.Query(parser(language).language, _QUERIES[language])


def read_facts(
    text: str, path: str, language: str, top_lines: int | None = TOP_LINES
) -> Facts:
    """The imports and declarations of a file.

    Args:
        text: the file.
        path: in its repository.
        language: as in `languages.LANGUAGES`; without a query: no imports.
        top_lines: read imports of so many lines at the top; None reads all.
    """
    if language not in _QUERIES:
        return Facts(path, language)
    head = text if top_lines is None else _head(text, top_lines)
    tree = parser(language).parse(head.encode("utf-8", "surrogatepass"))
    tree_sitter = require("tree_sitter")
    found = tree_sitter.QueryCursor(_query(language)).captures(tree.root_node)
    for nodes in found.values():
        nodes.sort(key=lambda node: node.start_byte)
    imports = tuple(_READERS[language](found))
    wanted = {name for entry in imports for name in entry.locals}
    words = collections.Counter(_WORD.findall(text)) if imports else {}
    whole = language in _WHOLE_PACKAGES
    return Facts(
        path,
        language,
        imports,
        tuple(dict.fromkeys(_package(n) for n in found.get("package", ()))),
        frozenset(_text(node) for node in found.get("declares", ())),
        dict(words) if whole else {w: words[w] for w in sorted(wanted) if w in words},
    )


def _head(text, lines):
    place = 0
    for _ in range(lines):
        place = text.find("\n", place) + 1
        if not place:
            return text
    return text[:place]


def _text(node):
    return node.text.decode("utf-8", "replace")


def _package(node):
    return re.sub(r"^package\s+|[\s;]", "", _text(node))


def _when(node):
    """`module`, `guarded`, `deferred` or `type`, from the nodes around an import."""
    kind = "module"
    while (node := node.parent) is not None:
        name = node.type
        if "function" in name or name in ("lambda", "method_definition"):
            return "deferred"
        if name == "if_statement":
            condition = node.child_by_field_name("condition")
            if condition is not None and b"TYPE_CHECKING" in condition.text:
                return "type"
            kind = "guarded"
        elif name == "try_statement":
            kind = "guarded"
    return kind


def _python(found):
    for node in found.get("import", ()):
        kind = _when(node)
        if node.type == "import_statement":
            for name in node.children_by_field_name("name"):
                module, local = _aliased(name)
                yield Import(module, kind=kind, locals=(local.split(".")[-1],))
            continue
        where = node.child_by_field_name("module_name")
        if where is None:
            continue
        module = _text(where).replace(" ", "")
        level = len(module) - len(module.lstrip("."))
        pairs = [_aliased(n) for n in node.children_by_field_name("name")]
        star = any(child.type == "wildcard_import" for child in node.children)
        yield Import(
            module[level:],
            ("*",) if star else tuple(name for name, _ in pairs),
            level,
            kind,
            tuple(local for _, local in pairs),
        )


def _aliased(node):
    if node.type == "aliased_import":
        return (
            _text(node.child_by_field_name("name")).replace(" ", ""),
            _text(node.child_by_field_name("alias")),
        )
    name = re.sub(r"\s", "", _text(node))
    return name, name


def _javascript(found):
    nodes = [*found.get("import", ()), *found.get("call", ())]
    for node in sorted(nodes, key=lambda node: node.start_byte):
        text = _text(node)
        if node.type == "call_expression":
            string = node.child_by_field_name("arguments").named_children[0]
        else:
            string = node.child_by_field_name("source")
        if string is None:
            string = next(
                (c.child_by_field_name("source") for c in node.named_children), None
            )
        if string is None:
            continue
        head = text[: string.start_byte - node.start_byte]
        words = _WORD.findall(re.sub(r"\w+\s+as\s+", "", head))
        names = tuple(
            w for w in words if w not in ("import", "export", "from", "type", "require")
        )
        if node.type == "call_expression" and node.parent.type == "variable_declarator":
            names = tuple(_WORD.findall(_text(node.parent.child_by_field_name("name"))))
        kind = "type" if re.match(r"(?:im|ex)port\s+type\b", text) else _when(node)
        yield Import(_text(string)[1:-1], kind=kind, locals=names)


def _java(found):
    for node in found.get("import", ()):
        text = re.sub(r"^import\s+(?:static\s+)?|;.*$", "", _text(node), flags=re.S)
        parts = re.sub(r"\s", "", text).split(".")
        if parts[-1] == "*":
            yield Import(".".join(parts[:-1]), ("*",))
        else:
            yield Import(".".join(parts), locals=(parts[-1],))


def _kotlin(found):
    for node in found.get("import", ()):
        text = re.sub(r"^import\s+", "", _text(node).strip())
        text, _, alias = re.sub(r"[\s;]+$", "", text).partition(" as ")
        parts = re.sub(r"[\s`]", "", text).split(".")
        if parts[-1] == "*":
            yield Import(".".join(parts[:-1]), ("*",))
        else:
            local = alias.strip() or parts[-1]
            yield Import(".".join(parts[:-1]), (parts[-1],), locals=(local,))


def _go(found):
    for node in found.get("import", ()):
        path = _text(node.child_by_field_name("path"))[1:-1]
        name = node.child_by_field_name("name")
        local = _text(name) if name is not None else path.rpartition("/")[2]
        yield Import(path, ("*",), locals=(local,))


def _rust(found):
    for node in found.get("child", ()):
        inside = _inline_modules(node.parent)
        yield Import("::".join((*inside, _text(node))), kind="child")
    for node in found.get("import", ()):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", _text(node), flags=re.S)
        depth = len(_inline_modules(node))
        for path in expand_use(re.sub(r"\s+", " ", text)):
            path = re.sub(r"\s+as\s+\w+$", "", path).replace(" ", "")
            names = ()
            if depth and path.startswith("super::"):
                # `super` of an inline `mod tests { ... }` is the file itself.
                path = "self::" + path.removeprefix("super::")
            if path.endswith("::*"):
                path, names = path[:-3], ("*",)
            path = path.removesuffix("::self")
            local = path.rpartition("::")[2]
            yield Import(path, names, kind=_rust_when(node), locals=(local,))


def _inline_modules(node):
    names = []
    while (node := node.parent) is not None:
        if node.type == "mod_item":
            names.insert(0, _text(node.child_by_field_name("name")))
    return names


def _rust_when(node):
    while (node := node.parent) is not None:
        if node.type == "function_item":
            return "deferred"
    return "module"


def expand_use(tree: str) -> list[str]:
    """Paths of a Rust use tree: `a::{b, c::{d, self}} -> a::b, a::c::d, a::c::self`."""
    start = tree.find("{")
    if start < 0:
        return [tree.strip()] if tree.strip() else []
    head, depth, item, paths = tree[:start].strip(), 0, "", []
    for character in tree[start + 1 : tree.rfind("}")] + ",":
        depth += (character == "{") - (character == "}")
        if character == "," and not depth:
            paths += [head + path for path in expand_use(item)]
            item = ""
        else:
            item += character
    return paths


def _cpp(found):
    for node in found.get("import", ()):
        text = _text(node).strip()
        if text[:1] in ('"', "<"):
            yield Import(text[1:-1].replace("\\", "/"), quoted=text[0] == '"')


def _csharp(found):
    for node in found.get("import", ()):
        text = re.sub(r"^(?:global\s+)?using\s+|;\s*$", "", _text(node))
        static = text.startswith("static ")
        alias, equals, target = text.removeprefix("static ").rpartition("=")
        target = re.sub(r"\s|<.*>", "", target)
        if static or equals:
            space, _, name = target.rpartition(".")
            local = alias.strip() or name
            yield Import(space, (name,), locals=(local,))
        else:
            yield Import(target, ("*",))


_READERS = {
    "python": _python,
    "javascript": _javascript,
    "typescript": _javascript,
    "tsx": _javascript,
    "java": _java,
    "kotlin": _kotlin,
    "go": _go,
    "rust": _rust,
    "cpp": _cpp,
    "csharp": _csharp,
}


def same_family(a: str, b: str) -> bool:
    """Whether files of these languages can import each other."""
    return family(a) == family(b)
