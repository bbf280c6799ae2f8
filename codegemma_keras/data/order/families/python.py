"""Python: which file the import system would load.

An absolute import is looked up under the folders that could be on `sys.path`: the
importer's own (the first above it that is no package), the project's (one that holds a
pyproject.toml, setup.py or setup.cfg, and its `src` or `package-dir`), and any that holds
a real package of the name and is not itself below a `src`. A folder without `__init__.py`
is a namespace package, which several projects of one repository may share. Nothing is ever
found inside of another package: `import json` is not `flask/json/`.

Left out: `importlib.import_module("a.b")`, and paths that a program adds to `sys.path`.
"""

import posixpath
import sys

from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import folders_above, join, nearest
from codegemma_keras.data.order.syntax import Source, bare, text_of

QUERIES = {
    "python": """
        (import_statement) @import
        (import_from_statement) @import""",
}
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")
_SOURCE_FOLDERS = ("src", "lib", "python")


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    return Facts(source.path, source.language, imports, uses=source.uses(imports))


def _imports(source):
    for node in source.nodes("import"):
        kind = _when(node)
        if node.type == "import_statement":
            for name in node.children_by_field_name("name"):
                module, local = _aliased(name)
                yield Import(module, kind=kind, locals=(local.split(".")[-1],))
            continue
        where = node.child_by_field_name("module_name")
        if where is None:
            continue
        module = text_of(where).replace(" ", "")
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
        name, alias = (node.child_by_field_name(f) for f in ("name", "alias"))
        return bare(name), text_of(alias)
    return bare(node), bare(node)


def _when(node):
    """`module`, `guarded`, `deferred` or `type`, from the nodes around an import."""
    kind = "module"
    while (node := node.parent) is not None:
        if node.type in ("function_definition", "lambda"):
            return "deferred"
        if node.type == "if_statement":
            condition = node.child_by_field_name("condition")
            if condition is not None and b"TYPE_CHECKING" in condition.text:
                return "type"
            kind = "guarded"
        elif node.type == "try_statement":
            kind = "guarded"
    return kind


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._paths = repository.paths
        self._roots = self._project_roots(repository)
        # What lies below one of these is in a package, if only in a namespace.
        projects = {
            posixpath.dirname(path)
            for path in repository.paths
            if posixpath.basename(path) in _PROJECT_FILES
        }
        self._sources = (self._roots - projects - {""}) & repository.folders
        # `{first part of a module: folders that it lies in}`.
        self._places = {}
        for facts in repository.of_family("python"):
            folder, name = posixpath.split(facts.path)
            self._add_place(posixpath.splitext(name)[0], folder)
            while folder:
                above, name = posixpath.split(folder)
                self._add_place(name, above)
                folder = above
        self._own = {}

    def _add_place(self, name, folder):
        self._places.setdefault(name, {})[folder] = True

    def _project_roots(self, repository):
        roots = {"", *_SOURCE_FOLDERS}
        roots |= {f for f in repository.folders if posixpath.basename(f) == "src"}
        for path in repository.paths:
            folder, name = posixpath.split(path)
            if name in _PROJECT_FILES:
                said = (repository.build.get(path) or {}).get("roots", ())
                for inside in ("", *_SOURCE_FOLDERS, *said):
                    roots.add(join(folder, inside))
        return roots

    def resolve(self, facts):
        for entry in facts.imports:
            yield entry, dict.fromkeys(self._find(facts.path, entry), entry.locals)

    def _find(self, importer, entry):
        if entry.level:
            folder = posixpath.dirname(importer)
            for _ in range(entry.level - 1):
                if not folder:
                    return
                folder = posixpath.dirname(folder)
            base = folder.split("/") if folder else []
            base += entry.module.split(".") if entry.module else []

            def load(parts):
                return self._file("/".join(parts))

        else:
            base = entry.module.split(".")

            def load(parts):
                return self._absolute(importer, parts)

        whole = not entry.names
        for name in entry.names:
            found = load([*base, name]) if name != "*" else None
            if found:
                yield found
            else:
                whole = True
        if whole and (found := load(base)):
            yield found

    def _file(self, module):
        """The file of a module `a/b`: a package before a module, as the import system."""
        names = (f"{module}/__init__.py", f"{module}.py", f"{module}.pyi")
        if not module:
            names = ("__init__.py",)
        return next((name for name in names if name in self._paths), None)

    def _absolute(self, importer, parts):
        """The file of `a.b.c`, under the nearest folder that could be on `sys.path`."""
        found = []
        for root in self._places.get(parts[0], ()):
            path = self._file(posixpath.join(root, *parts))
            if path and self._can_be_root(root, importer, parts[0]):
                found.append(path)
        return nearest(found, importer)

    def _is_package(self, folder):
        return posixpath.join(folder, "__init__.py") in self._paths

    def _can_be_root(self, root, importer, top):
        if root and self._is_package(root):
            return False
        if root in self._own_roots(posixpath.dirname(importer)):
            return True
        if top in sys.stdlib_module_names:
            return False
        if root in self._roots:
            return True
        above = self._sources.intersection(folders_above(root))
        return not above and self._is_package(posixpath.join(root, top))

    def _own_roots(self, folder):
        """Where the importer's folder itself puts the start of the path."""
        if folder not in self._own:
            top = folder
            while top and self._is_package(top):
                top = posixpath.dirname(top)
            if top != folder:
                # A namespace package above is no root; the project's folder is.
                above = folders_above(join(top, "x"))
                top = next((f for f in above if f in self._roots and f), top)
            self._own[folder] = {top}
        return self._own[folder]
