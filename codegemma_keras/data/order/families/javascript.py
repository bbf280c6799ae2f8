"""JavaScript and TypeScript: how files name modules.

`import`, `export ... from`, `require`, `import()`, `import x = require()`, and the module
mocks of test runners. `packages.py` says which files they mean.
"""

import re

from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.families.packages import Resolver
from codegemma_keras.data.order.syntax import WORD, Source, text_of

__all__ = ["QUERIES", "Resolver", "read"]

_JAVASCRIPT = """
    (import_statement source: (string)) @import
    (export_statement source: (string)) @import
    (call_expression function: (identifier) @_f arguments: (arguments . (string))
      (#eq? @_f "require")) @call
    (call_expression function: (member_expression object: (identifier) @_o
        property: (property_identifier) @_p) arguments: (arguments . (string))
      (#any-of? @_o "jest" "vi" "require")
      (#any-of? @_p "mock" "doMock" "unmock" "requireActual" "importActual" "resolve"))
      @call
    (call_expression function: (import) arguments: (arguments . (string))) @call"""
_TYPESCRIPT = (
    _JAVASCRIPT
    + """
    (import_statement (import_require_clause source: (string))) @import"""
)
QUERIES = {"javascript": _JAVASCRIPT, "typescript": _TYPESCRIPT, "tsx": _TYPESCRIPT}
_KEYWORDS = ("import", "export", "from", "type", "require", "typeof")


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    return Facts(source.path, source.language, imports, uses=source.uses(imports))


def _imports(source):
    for node in source.nodes("import", "call"):
        string = _specifier(node)
        if string is None:
            continue
        text = text_of(node)
        head = node.text[: string.start_byte - node.start_byte].decode(
            "utf-8", "replace"
        )
        if node.type == "call_expression":
            names = _assigned(node)
        else:
            names = WORD.findall(re.sub(r"\w+\s+as\s+", "", head))
        is_type = re.match(r"(?:im|ex)port\s+type\b", text)
        yield Import(
            text_of(string)[1:-1],
            kind="type" if is_type else _when(node),
            locals=tuple(name for name in names if name not in _KEYWORDS),
        )


def _specifier(node):
    """The string that names the module."""
    if node.type == "call_expression":
        return node.child_by_field_name("arguments").named_children[0]
    clauses = (child.child_by_field_name("source") for child in node.named_children)
    return node.child_by_field_name("source") or next(filter(None, clauses), None)


def _assigned(node):
    """The names in `const {a, b} = require("x")`, also after `await` or `.c`."""
    while node.parent is not None and node.parent.type in (
        "await_expression",
        "member_expression",
        "parenthesized_expression",
    ):
        node = node.parent
    if node.parent is not None and node.parent.type == "variable_declarator":
        return WORD.findall(text_of(node.parent.child_by_field_name("name")))
    return []


def _when(node):
    """`module`, `guarded` or `deferred`, from the nodes around an import."""
    kind = "module"
    while (node := node.parent) is not None:
        if "function" in node.type or node.type == "method_definition":
            return "deferred"
        if node.type in ("if_statement", "try_statement"):
            kind = "guarded"
    return kind
