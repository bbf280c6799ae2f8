"""From import statements to the files they mean, by longest path-suffix match.

One rule per language family, all over one index of path suffixes. A candidate counts
only if the language could load it from there: `import json` is not `flask/json/`. Where
several files fit, the most matched path components win, then the one nearest to the
importer, then the first by name.

Left out: reading build files (setup.cfg, go.mod, package.json, tsconfig.json, Cargo.toml,
pom.xml); roots are inferred from the tree, so a repository works without them.
"""

import collections
import dataclasses
import posixpath
import sys

from codegemma_keras.data.languages import family, split_name
from codegemma_keras.data.order.imports import Facts, Import
from codegemma_keras.data.order.repository import Repository, module_parts, nearest


@dataclasses.dataclass(frozen=True)
class Target:
    """One file that one statement means.

    Attributes:
        path: str.
        kind: as `Import.kind`.
        uses: how often the importer mentions what it took.
        breadth: how many files the statement means in all.
    """

    path: str
    kind: str
    uses: int
    breadth: int


def find_targets(repository: Repository, facts: Facts) -> list[Target]:
    """The files that a file's imports mean, itself left out."""
    rule = _RULES.get(family(facts.language))
    found = []
    for entry in facts.imports if rule else ():
        paths = [p for p in rule(repository, facts, entry) if p != facts.path]
        paths = list(dict.fromkeys(paths))
        for path in paths:
            names = _names(repository, entry, path)
            uses = sum(facts.uses.get(name, 0) for name in names)
            found.append(Target(path, entry.kind, uses, len(paths)))
    return found


def _names(repository, entry, path):
    if entry.names == ("*",) and repository.files[path].declares:
        return repository.files[path].declares
    return entry.locals


# Python


def _python(repository, facts, entry: Import):
    if entry.level:
        folder = posixpath.dirname(facts.path)
        for _ in range(entry.level - 1):
            if not folder:
                return
            folder = posixpath.dirname(folder)
        base = folder.split("/") if folder else []
        base += entry.module.split(".") if entry.module else []

        def load(parts):
            return python_file(repository.paths, "/".join(parts))

    else:
        base = entry.module.split(".")

        def load(parts):
            return _absolute(repository, facts.path, parts)

    whole = False
    for name in entry.names:
        found = load([*base, name]) if name != "*" else None
        if found:
            yield found
        else:
            whole = True
    if (whole or not entry.names) and (found := load(base)):
        yield found


def python_file(paths, module: str) -> str | None:
    """The file of a module `a/b`: a package before a module, as the import system."""
    names = (
        (f"{module}/__init__.py", f"{module}.py", f"{module}.pyi")
        if module
        else ("__init__.py",)
    )
    return next((name for name in names if name in paths), None)


def _absolute(repository, importer, parts):
    """The file of `a.b.c`, under the nearest folder that could be on `sys.path`."""
    if not all(parts):
        return None
    best = {}
    for path in repository.modules("python", parts):
        have = module_parts(path, "python")
        root = "/".join(have[: len(have) - len(parts)])
        if _can_be_root(repository, root, importer, parts):
            best.setdefault(root, []).append(path)
    found = [python_file(repository.paths, posixpath.join(r, *parts)) for r in best]
    chosen = nearest([f for f in found if f], importer)
    return chosen[0] if chosen else None


def _is_package(repository, folder):
    return f"{folder}/__init__.py".lstrip("/") in repository.paths


def _can_be_root(repository, root, importer, parts):
    """Whether Python started sensibly would have `root` on its path.

    Never a folder inside a package. Else the folders above the importer (the script's
    own, the root), `src` and the like; any other only for a real package.
    """
    if root and _is_package(repository, root):
        return False
    folder = posixpath.dirname(importer)
    while folder and _is_package(repository, folder):
        folder = posixpath.dirname(folder)
    if root == folder:
        return True
    if parts[0] in sys.stdlib_module_names:
        return False
    if root in ("", "src", "lib", "python"):
        return True
    top = posixpath.join(root, parts[0])
    return _is_package(repository, top)


# JavaScript and TypeScript

_JS_ENDINGS = (".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts")


def _javascript(repository, facts, entry: Import):
    spec = entry.module.split("?")[0]
    if spec.startswith("."):
        base = posixpath.join(posixpath.dirname(facts.path), spec)
        found = _js_file(repository, posixpath.normpath(base))
        return [found] if found else []
    if spec.startswith(("@/", "~/", "#/")):
        return _js_suffix(repository, facts.path, spec[2:].split("/"))
    parts = spec.split("/")
    scope = 1 if spec.startswith("@") else 0
    name, inside = parts[scope : scope + 1], parts[scope + 1 :]
    if not name or name[0] not in repository.folders_named:
        return []
    # A package of the same workspace: packages/name[/src]/..., the longest first.
    for tail in ([*name, *inside], [*name, "src", *inside], [*name, "lib", *inside]):
        if len(tail) > 1 or not inside:
            found = _js_suffix(repository, facts.path, tail)
            if found and (inside or _is_index(found[0])):
                return found
    return []


def _is_index(path):
    return split_name(path)[1] == "index"


def _js_suffix(repository, importer, parts):
    parts = [p for p in parts if p]
    if not parts:
        return []
    stem = split_name(parts[-1])[1] if parts[-1].endswith(_JS_ENDINGS) else parts[-1]
    return nearest(repository.modules("javascript", [*parts[:-1], stem]), importer)


def _js_file(repository, base):
    paths = repository.paths
    if base in paths:
        return base
    stem = (
        posixpath.splitext(base)[0] if base.endswith((".js", ".jsx", ".mjs")) else base
    )
    for name in dict.fromkeys((stem, base)):
        for ending in _JS_ENDINGS:
            if name + ending in paths:
                return name + ending
    for ending in _JS_ENDINGS:
        if (index := posixpath.join(base, "index" + ending).lstrip("./")) in paths:
            return index
    return None


# Java and Kotlin


def _java(repository, facts, entry: Import):
    parts = entry.module.split(".")
    if entry.names == ("*",):
        package = repository.by_package["java", entry.module]
        if package:
            return repository.narrow(facts, package)
        return nearest(repository.modules("java", parts), facts.path)
    full = [*parts, *entry.names]
    # A class in its file; then the class around a nested class or a static member.
    for end in range(len(full), max(1, len(full) - 3), -1):
        if found := repository.modules("java", full[:end]):
            return nearest(found, facts.path)
        # Kotlin: any file of the package may declare the name.
        package = repository.by_package["java", ".".join(full[: end - 1])]
        if found := [
            p for p in package if full[end - 1] in repository.files[p].declares
        ]:
            return nearest(found, facts.path)
    return []


# Go


def _go(repository, facts, entry: Import):
    folder = _go_folder(repository, entry.module)
    if folder is None or folder == posixpath.dirname(facts.path):
        return []
    files = repository.by_folder["go", folder]
    return repository.narrow(facts, [p for p in files if not p.endswith("_test.go")])


def _go_folder(repository, path):
    """The folder that an import path means, or None for another module's.

    `prefix/rest` means `root/rest`, where `prefix` is the name of a module and `root` its
    folder. go.mod, which would say both, is not read: the pair that fits most imports is
    believed, and any that fits several folders. So a foreign module whose path ends in
    `/util` is not this one's `util`.
    """
    if repository.go_modules is None:
        repository.go_modules = _go_modules(repository)
    known = repository.go_modules
    fits = [
        (known[prefix, root], len(folder), folder)
        for prefix, root, folder in _go_splits(repository, path)
        if (prefix, root) in known
    ]
    return max(fits)[-1] if fits else None


def _go_modules(repository):
    """`{(prefix, root): imports that it fits}` of the pairs believed."""
    votes, folders = collections.Counter(), collections.defaultdict(set)
    for facts in repository.files.values():
        for entry in facts.imports if facts.language == "go" else ():
            for prefix, root, folder in _go_splits(repository, entry.module):
                votes[prefix, root] += 1
                folders[prefix, root].add(folder)
    most = max(votes.values(), default=0)
    return {
        pair: number
        for pair, number in votes.items()
        if number == most or len(folders[pair]) >= (2 if number * 2 >= most else 3)
    }


def _go_splits(repository, path):
    parts = path.split("/")
    if parts[0] in _GO_STANDARD:
        return
    for start in range(1, len(parts)):
        rest = "/".join(parts[start:])
        for folder in repository.folders_named.get(parts[-1], ()):
            if (
                f"/{folder}".endswith(f"/{rest}")
                and ("go", folder) in repository.by_folder
            ):
                root = folder[: -len(rest)].rstrip("/")
                yield "/".join(parts[:start]), root, folder
    if ("go", "") in repository.by_folder and "." in parts[0]:
        yield path, "", ""


# First parts of the paths of Go's standard library.
_GO_STANDARD = frozenset(
    "archive bufio bytes cmp compress container context crypto database debug embed "
    "encoding errors expvar flag fmt go hash html image index io iter log maps math mime "
    "net os path plugin reflect regexp runtime slices sort strconv strings structs sync "
    "syscall testing text time unicode unique unsafe weak".split()
)


# Rust


def _rust(repository, facts, entry: Import):
    parts = [p.removeprefix("r#") for p in entry.module.split("::") if p]
    here = _rust_module(facts.path)
    root = _crate_root(repository, facts.path)
    if entry.kind == "child":
        return _rust_file(repository, [*here, *parts], len(here) + len(parts))
    if not parts:
        return []
    if parts[0] == "crate":
        base, parts = root, parts[1:]
    elif parts[0] in ("self", "super"):
        base = here
        while parts and parts[0] in ("self", "super"):
            base = base[:-1] if parts[0] == "super" else base
            parts = parts[1:]
    else:
        return _other_crate(repository, facts, parts, here)
    return _rust_file(repository, [*base, *parts], len(base))


def _rust_module(path):
    """The folder, as parts, in which a file's child modules lie."""
    folder, stem = split_name(path)
    parts = folder.split("/") if folder else []
    return parts if stem in ("mod", "lib", "main") else [*parts, stem]


def _crate_root(repository, path):
    folder = posixpath.dirname(path)
    while True:
        if {
            posixpath.join(folder, n) for n in ("lib.rs", "main.rs")
        } & repository.paths:
            break
        if not folder:
            break
        folder = posixpath.dirname(folder)
    return folder.split("/") if folder else []


def _rust_file(repository, parts, least):
    """The file of the longest prefix of `parts` that is a module, not above `least`."""
    for end in range(len(parts), least - 1, -1):
        module = "/".join(parts[:end])
        names = [f"{module}.rs", f"{module}/mod.rs"] if module else []
        if end == least:
            names += [posixpath.join(module, n) for n in ("lib.rs", "main.rs")]
        if found := next((n for n in names if n in repository.paths), None):
            return [found]
    return []


def _other_crate(repository, facts, parts, here):
    """A crate of the same workspace by its folder's name, or a sibling module."""
    if found := _rust_file(repository, [*here, *parts], len(here) + 1):
        return found
    for name in (parts[0], parts[0].replace("_", "-")):
        roots = [
            posixpath.dirname(p)
            for p in repository.by_stem["rust", "lib"]
            if p.endswith(f"{name}/src/lib.rs")
            and f"/{p}".endswith(f"/{name}/src/lib.rs")
        ]
        if roots:
            base = nearest(roots, facts.path)[0].split("/")
            return _rust_file(repository, [*base, *parts[1:]], len(base))
    # The package's own library, by the name in its Cargo.toml, from main.rs or tests/:
    # only if it has that module, for the name may be any other crate's.
    roots = [posixpath.dirname(p) for p in repository.by_stem["rust", "lib"]]
    if len(parts) > 1 and len(roots) == 1:
        base = roots[0].split("/") if roots[0] else []
        return _rust_file(repository, [*base, *parts[1:]], len(base) + 1)
    return []


# C and C++


def _cpp(repository, facts, entry: Import):
    path = entry.module
    if entry.quoted:
        near = posixpath.normpath(posixpath.join(posixpath.dirname(facts.path), path))
        if near in repository.paths:
            return [near]
    parts = [p for p in posixpath.normpath(path).split("/") if p != ".."]
    if not entry.quoted and len(parts) < 2:
        return []  # <vector>, <string.h>
    name = posixpath.basename(path)
    stem = split_name(path)[1]
    found = [
        p
        for p in repository.by_stem["cpp", stem]
        if p.endswith(name) and p.split("/")[-len(parts) :] == parts
    ]
    return nearest(found, facts.path)


# C#


def _csharp(repository, facts, entry: Import):
    if entry.names == ("*",):
        return repository.narrow(facts, repository.by_package["csharp", entry.module])
    package = repository.by_package["csharp", entry.module]
    return [p for p in package if entry.names[0] in repository.files[p].declares]


_RULES = {
    "python": _python,
    "javascript": _javascript,
    "java": _java,
    "go": _go,
    "rust": _rust,
    "cpp": _cpp,
    "csharp": _csharp,
}
