"""C#: the files of a namespace that declare a type which the importer mentions.

Mentions are words outside of comments, strings and `using` lines. `using static N.T` and
`using A = N.T` mean the files that declare T in N. A `global using` counts for every file
of its project, the folder of the nearest .csproj, and for nothing where it stands.

Left out: extension methods, which are called without naming their class; `<Using>` items
in project files; types of the importer's own and enclosing namespaces, which need no
`using`.
"""

import collections
import posixpath
import re

from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import folders_above
from codegemma_keras.data.order.syntax import Source, bare, text_of

QUERIES = {
    "csharp": """
        (using_directive) @import
        (namespace_declaration name: (_) @package)
        (file_scoped_namespace_declaration name: (_) @package)
        [(comment) (string_literal_content) (string_content)
         (raw_string_content) (verbatim_string_literal)
         (character_literal)] @skip
        (class_declaration name: (identifier) @declares)
        (interface_declaration name: (identifier) @declares)
        (struct_declaration name: (identifier) @declares)
        (enum_declaration name: (identifier) @declares)
        (record_declaration name: (identifier) @declares)
        (delegate_declaration name: (identifier) @declares)
        """,
}
_NAMESPACE = re.compile(r"^\s*namespace\s+([\w.]+)", re.M)
_TYPES = frozenset(
    f"{kind}_declaration" for kind in ("class", "struct", "interface", "record")
)


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    declares = {
        text_of(node) for node in source.nodes("declares") if not _nested(node.parent)
    }
    package = [_full_name(node) for node in source.nodes("package")]
    if not package:
        # After an error, such as `#if` around half a declaration, the node is missing.
        package = _NAMESPACE.findall(source.code("skip"))
    return Facts(
        source.path,
        "csharp",
        imports,
        tuple(dict.fromkeys(package)) or ("",),
        frozenset(declares),
        # Of all files: global usings stand elsewhere.
        dict(source.words("skip", "import", "package")),
    )


def _nested(node):
    return any(above.type in _TYPES for above in _above(node))


def _above(node):
    while (node := node.parent) is not None:
        yield node


def _full_name(node):
    """The name of a namespace with those that it stands in."""
    outer = [
        bare(above.child_by_field_name("name"))
        for above in _above(node.parent)
        if above.type == "namespace_declaration"
    ]
    return ".".join([*reversed(outer), bare(node)])


def _imports(source):
    for node in source.nodes("import"):
        text = text_of(node)
        everywhere = text.startswith("global ")
        text = re.sub(r"^(?:global\s+)?using\s+|;\s*$", "", text)
        static = text.startswith("static ")
        alias, _, target = text.removeprefix("static ").rpartition("=")
        yield _using(target, static, alias.strip(), everywhere)


def _using(target, static, alias, everywhere):
    target = re.sub(r"\s|<.*>|^global::", "", target)
    if not static and not alias:
        return Import(target, ("*",), everywhere=everywhere)
    space, _, name = target.rpartition(".")
    return Import(space, (name,), locals=(alias or name,), everywhere=everywhere)


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._projects = {
            posixpath.dirname(path)
            for path in repository.build
            if path.endswith(".csproj")
        }
        # `{namespace: {name: files that declare it}}`.
        self._declared = {}
        written = collections.defaultdict(dict)
        for facts in repository.of_family("csharp"):
            for package in facts.package:
                names = self._declared.setdefault(package, {})
                for name in facts.declares:
                    names.setdefault(name, []).append(facts.path)
            for entry in facts.imports:
                if entry.everywhere:
                    written[self._project(facts.path)][entry] = True
        self._global = dict(written)

    def resolve(self, facts):
        own = [entry for entry in facts.imports if not entry.everywhere]
        project = self._project(facts.path)
        for entry in dict.fromkeys([*own, *self._global.get(project, ())]):
            yield entry, self._find(facts, entry)

    def _find(self, facts, entry):
        if entry.names == ("*",):
            found = {}
            names = self._declared.get(self._absolute(facts, entry.module), {})
            for name in sorted(names.keys() & facts.uses.keys()):
                for path in names[name]:
                    found.setdefault(path, []).append(name)
            return found
        names = self._declared.get(self._absolute(facts, entry.module), {})
        if paths := names.get(entry.names[0]):
            return dict.fromkeys(paths, entry.locals)
        return {}

    def _absolute(self, facts, name):
        """A namespace's full name: `using B` within `namespace A` may mean `A.B`."""
        if name in self._declared:
            return name
        for package in facts.package:
            parts = package.split(".")
            for end in range(len(parts), 0, -1):
                if (full := ".".join([*parts[:end], name])) in self._declared:
                    return full
        return name

    def _project(self, path):
        above = folders_above(path)
        return next((folder for folder in above if folder in self._projects), "")
