"""Go: the files of the imported package that declare what the importer selects from it.

An import path means a folder: below that of the go.mod whose module path it starts with
(the longest), or of a folder that a `replace` names. In a repository without go.mod, a
path means the folder that has it (`src/x.org/m/util`), or the first two or three parts
are believed to be the repository if all imports under them lead to one of its folders.

Only exported names of a package that is not `main` can be imported, and never from its
tests, but by the tests in the same folder (`package m_test`). `import _` takes no name.
"""

import collections
import posixpath
import re

from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import folders_above, join
from codegemma_keras.data.order.syntax import WORD, Source, text_of

QUERIES = {
    "go": """
        (package_clause (package_identifier) @package)
        (import_spec) @import
        (import_declaration) @skip
        [(comment) (interpreted_string_literal) (raw_string_literal)
         (rune_literal)] @skip
        (source_file (function_declaration name: (identifier) @declares))
        (source_file (type_declaration (_ name: (type_identifier) @declares)))
        (source_file (var_declaration (var_spec name: (identifier) @declares)))
        (source_file (var_declaration (var_spec_list
          (var_spec name: (identifier) @declares))))
        (source_file (const_declaration (const_spec name: (identifier) @declares)))""",
}
_SELECTOR = re.compile(r"(?<![\w.])([^\W\d]\w*)\s*\.\s*([^\W\d_]\w*)")
# Hosts whose repositories are `host/owner/name`; of others, `host/name`.
_FORGES = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "gitee.com")


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    uses = {}
    if imports:
        code = source.code("skip")
        selected = (m for m in _SELECTOR.findall(code) if m[1][0].isupper())
        uses = collections.Counter(".".join(pair) for pair in selected)
        if any(entry.locals == (".",) for entry in imports):
            uses.update(word for word in WORD.findall(code) if word[0].isupper())
    package = tuple(dict.fromkeys(text_of(node) for node in source.nodes("package")))
    declares = frozenset(n for n in source.names("declares") if n[:1].isupper())
    return Facts(source.path, "go", imports, package, declares, dict(uses))


def _imports(source):
    for node in source.nodes("import"):
        path = text_of(node.child_by_field_name("path"))[1:-1]
        name = node.child_by_field_name("name")
        yield Import(path, locals=(text_of(name),) if name is not None else ())


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._files = repository.files
        self._by_folder = repository.by_folder
        # `(import path, folder)`, the longest path first.
        self._modules = []
        for root, said in repository.build_files("go.mod").items():
            self._modules.append((said["module"], root))
            for path, folder in said["replace"].items():
                self._modules.append((path, join(root, folder)))
        if not self._modules:
            self._modules = self._guess_modules(repository)
        self._modules = sorted(
            {pair for pair in self._modules if pair[0]},
            key=lambda pair: (-len(pair[0]), pair),
        )

    def resolve(self, facts):
        for entry in facts.imports:
            yield entry, self._find(facts, entry)

    def _find(self, facts, entry):
        folder = self._folder(entry.module)
        if folder is None or entry.locals == ("_",):
            return {}
        found = {}
        beside = folder == posixpath.dirname(facts.path)
        for path in self._by_folder["go", folder]:
            target = self._files[path]
            name = target.package[0] if target.package else "main"
            if name == "main" or (beside and target.package == facts.package):
                continue
            if path.endswith("_test.go") and not beside:
                continue
            local = entry.locals[0] if entry.locals else name
            prefix = "" if local == "." else f"{local}."
            names = sorted(prefix + declared for declared in target.declares)
            if names := [name for name in names if name in facts.uses]:
                found[path] = names
        return found

    def _folder(self, path):
        for module, root in self._modules:
            if path == module or path.startswith(f"{module}/"):
                folder = join(root, path[len(module) + 1 :])
                return folder if ("go", folder) in self._by_folder else None
        return None

    def _guess_modules(self, repository):
        """Modules of a repository without go.mod, from its tree and imports."""
        below = collections.defaultdict(set)
        for facts in repository.of_family("go"):
            for entry in facts.imports:
                parts = entry.module.split("/")
                size = 3 if parts[0] in _FORGES else 2
                if "." in parts[0] and len(parts) >= size:
                    below["/".join(parts[:size])].add("/".join(parts[size:]))
        go_folders = [folder for group, folder in self._by_folder if group == "go"]
        roots = sorted(
            {above for f in go_folders for above in (f, *folders_above(f))},
            key=lambda root: (root.count("/") + bool(root), root),
        )
        for prefix, rests in below.items():
            exact = [r for r in roots if f"/{r}".endswith(f"/{prefix}")]
            inside = rests - {""}
            for root in exact or (roots if inside else ()):
                if all(("go", join(root, rest)) in self._by_folder for rest in inside):
                    yield prefix, root
                    break
