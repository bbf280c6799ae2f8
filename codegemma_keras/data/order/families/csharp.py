"""C#: the files of a namespace that declare a name which the importer mentions.

Mentions are words outside of comments, strings and `using` lines. A namespace offers its
types, delegates, and extension methods, which are called without naming their class.
`using static N.T` and `using A = N.T` mean the files that declare T in N.

A `global using`, in any file of a project or in its .csproj (or a .props or .targets file
that applies to it), counts for every file of the project, and for nothing where it stands.
A project is the folder of a .csproj and all below it.
"""

import collections
import posixpath
import re

from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import folders_above, join
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
        (method_declaration name: (identifier) @extends
          parameters: (parameter_list . (parameter (modifier) @_this)
            (#eq? @_this "this")))""",
}
_TYPES = frozenset(
    f"{kind}_declaration" for kind in ("class", "struct", "interface", "record")
)


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    declares = {
        text_of(node) for node in source.nodes("declares") if not _nested(node.parent)
    }
    package = dict.fromkeys(_full_name(node) for node in source.nodes("package"))
    return Facts(
        source.path,
        "csharp",
        imports,
        tuple(package) or ("",),
        frozenset(declares | source.names("extends")),
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
        yield using(target, static, alias.strip(), everywhere)


def using(target, static, alias, everywhere):
    target = re.sub(r"\s|<.*>|^global::", "", target)
    if not static and not alias:
        return Import(target, ("*",), everywhere=everywhere)
    space, _, name = target.rpartition(".")
    return Import(space, (name,), locals=(alias or name,), everywhere=everywhere)


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._build = repository.build
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
        self._global = {p: list(entries) for p, entries in written.items()}
        self._with_build = {}

    def resolve(self, facts):
        own = [entry for entry in facts.imports if not entry.everywhere]
        for entry in dict.fromkeys([*own, *self._everywhere(facts.path)]):
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

    def _everywhere(self, path):
        """The global usings of the project of a file."""
        project = self._project(path)
        if project not in self._with_build:
            files = [
                p
                for p in self._build
                if p.endswith(".csproj") and posixpath.dirname(p) == project
            ]
            # MSBuild takes the nearest of each above the project.
            for name in ("Directory.Build.props", "Directory.Build.targets"):
                above = (join(f, name) for f in folders_above(join(project, "x")))
                files += [next((p for p in above if p in self._build), "")]
            entries = dict.fromkeys(self._global.get(project, ()))
            seen = set()
            while files:
                file = files.pop()
                if file in seen or file not in self._build:
                    continue
                seen.add(file)
                said = self._build[file]
                for name, static, alias in said.get("usings", ()):
                    entries[using(name, static, alias, True)] = True
                folder = posixpath.dirname(file)
                files += [self._imported(folder, p) for p in said.get("imports", ())]
            self._with_build[project] = list(entries)
        return self._with_build[project]

    def _imported(self, folder, path):
        """A project file that another imports, from beside it or by its path's end."""
        if (beside := join(folder, path)) in self._build:
            return beside
        tail = path.split("../")[-1]
        return next((p for p in sorted(self._build) if p.endswith(f"/{tail}")), tail)
