"""C#: the files of a namespace that declare a type which the importer mentions.

Mentions are words outside of comments, strings and `using` lines, and calls `x.Name()` of
the extension methods that the namespace declares. `using static N.T` and `using A = N.T`
mean the files that declare T in N. A `global using` counts for every file of its project,
the folder of the nearest .csproj, and for nothing where it stands; so do the `<Using>`
items of the .csproj and of the Directory.Build.props and .targets above it, whatever
their conditions. Of what is used everywhere, a class or alias must be mentioned, too, or a
method of the class be called.

Left out: types of the importer's own and enclosing namespaces, which need no `using`;
extension methods of a name that ordinary methods have, too, here or in .NET (`Add`): whose
a call is follows from types alone.
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
        (method_declaration name: (identifier) @method)
        (method_declaration name: (identifier) @extension
          parameters: (parameter_list . (parameter (modifier) @_this))
          (#eq? @_this "this"))
        """,
}
_NAMESPACE = re.compile(r"^\s*namespace\s+([\w.]+)", re.M)
# `x.Name(...)` and `x?.Name<T>(...)`.
_CALL = re.compile(r"\.\s*([A-Z]\w*)\s*(?:<[\w<>,.?\[\]\s]*>)?\s*\(")
_DECLARED = re.compile(
    r"\b(?:record\s+(?:class|struct)|class|struct|interface|enum|record)\s+(\w+)"
)
_TYPES = frozenset(
    f"{kind}_declaration" for kind in ("class", "struct", "interface", "record")
)


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    declares = {
        text_of(node) for node in source.nodes("declares") if not _nested(node.parent)
    }
    if not declares:
        # After an error, the node of the type may be missing.
        declares.update(_DECLARED.findall(source.code("skip"))[:1])
    extensions = {node.start_byte for node in source.nodes("extension")}
    for node in source.nodes("method"):
        name = text_of(node)
        declares.add(f".{name}" if node.start_byte in extensions else f"{name}()")
    package = [_full_name(node) for node in source.nodes("package")]
    if not package:
        # After an error, such as `#if` around half a declaration, the node is missing.
        package = _NAMESPACE.findall(source.code("skip"))
    # Of all files: global usings stand elsewhere.
    uses = source.words("skip", "import", "package")
    uses.update(f".{name}" for name in _CALL.findall(source.code("skip")))
    return Facts(
        source.path,
        "csharp",
        imports,
        tuple(dict.fromkeys(package)) or ("",),
        frozenset(declares),
        dict(uses),
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


# Methods of .NET's own strings, collections, streams and queries.
DOTNET_METHODS = frozenset(
    """Add AddRange Aggregate All Any Append AppendFormat AppendLine Average Cast Clear Clone
    Close Compare CompareTo Concat Contains ContainsKey Copy CopyTo Count Dispose Distinct
    ElementAt EndsWith Equals Except Exists Find FindAll First FirstOrDefault Flush ForEach
    Format Get GetAwaiter GetBytes GetEnumerator GetHashCode GetType GetValue GroupBy IndexOf
    Insert Intersect Invoke IsEmpty Join Last LastIndexOf LastOrDefault Max Min OrderBy
    OrderByDescending Parse Peek Pop Push Read ReadLine Remove RemoveAll RemoveAt Replace
    Reverse Run Select SelectMany SequenceEqual Set SetValue Single SingleOrDefault Skip Sort
    Split Start StartsWith Stop Substring Sum Take TakeWhile ThenBy ToArray ToDictionary
    ToHashSet ToList ToLookup ToLower ToString ToUpper Trim TrimEnd TrimStart TryGetValue
    TryParse Union Wait Where Write WriteLine Zip""".split()
)


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._projects = {
            posixpath.dirname(path)
            for path in repository.build
            if path.endswith(".csproj")
        }
        self._methods = {
            facts.path: {n[:-2] for n in facts.declares if n.endswith("()")}
            for facts in repository.of_family("csharp")
        }
        ordinary = DOTNET_METHODS.union(*self._methods.values())
        # `{namespace: {name: files that declare it}}`; `.Name` of an extension method.
        self._declared = {}
        written = collections.defaultdict(dict)
        for facts in repository.of_family("csharp"):
            for package in facts.package:
                names = self._declared.setdefault(package, {})
                for name in facts.declares:
                    hidden = name[0] == "." and name[1:] in ordinary
                    if not hidden and not name.endswith("()"):
                        names.setdefault(name, []).append(facts.path)
            for entry in facts.imports:
                if entry.everywhere:
                    written[self._project(facts.path)][entry] = True
        for path, said in repository.build.items():
            for target, static, alias in said.get("usings", ()):
                entry = _using(target, static, alias, everywhere=True)
                for folder in self._below(posixpath.dirname(path)):
                    written[folder][entry] = True
        self._global = dict(written)

    def resolve(self, facts):
        own = [entry for entry in facts.imports if not entry.everywhere]
        project = self._project(facts.path)
        for entry in dict.fromkeys([*own, *self._global.get(project, ())]):
            yield entry, self._find(facts, entry)

    def _find(self, facts, entry):
        names = self._declared.get(self._absolute(facts, entry.module), {})
        if entry.names == ("*",):
            found = {}
            for name in sorted(names.keys() & facts.uses.keys()):
                for path in names[name]:
                    found.setdefault(path, []).append(name)
            return found
        paths = names.get(entry.names[0], ())
        if entry.everywhere and entry.locals[0] not in facts.uses:
            paths = [p for p in paths if self._methods[p] & facts.uses.keys()]
        return dict.fromkeys(paths, entry.locals)

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

    def _below(self, folder):
        """The projects in a folder and below."""
        inside = f"{folder}/" if folder else ""
        return [p for p in self._projects if p == folder or p.startswith(inside)]

    def _project(self, path):
        above = folders_above(path)
        return next((folder for folder in above if folder in self._projects), "")
