"""JavaScript and TypeScript: which file a module specifier means.

In this order, as the TypeScript compiler and Node.js look:

1. `./x`: the file, with the endings of source files, or the folder's entry.
2. `paths` and `baseUrl` of the nearest tsconfig.json or jsconfig.json above the importer,
   with what it `extends`.
3. `#x`: `imports` of the nearest package.json.
4. A package of this repository, by the `name` in its package.json: `exports`, else its
   entry point or the path inside of it. The importer's own package, or one that a
   package.json above the importer depends on or has as a workspace.
5. Where there is no tsconfig.json: `@/x`, `~/x` in the nearest `src` or root folder.

What is built does not lie in a repository: an entry point in `dist` means the source that
it is built from, in `src` or the folder itself. A `.js` importer never gets a `.d.ts`
that has a `.js` beside it. Packages that are installed are not here.
"""

import posixpath
import re

from codegemma_keras.data.languages import family
from codegemma_keras.data.order.repository import folders_above, join, nearest

_TS = (".ts", ".tsx", ".d.ts", ".mts", ".cts", ".d.mts", ".d.cts")
_JS = (".js", ".jsx", ".mjs", ".cjs")
_DECLARATIONS = (".d.ts", ".d.mts", ".d.cts")
# What an ending in a specifier may stand for in the source.
_SOURCES = {
    ".js": (".ts", ".tsx", ".d.ts", ".jsx"),
    ".jsx": (".tsx", ".d.ts"),
    ".mjs": (".mts", ".d.mts", ".ts"),
    ".cjs": (".cts", ".d.cts", ".ts"),
}
_CONDITIONS = ("types", "import", "require", "node", "module-sync", "default")
_BUILT = ("dist", "lib", "build", "out", "output", "esm", "cjs", "es", "umd", "types")


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._files = {facts.path for facts in repository.of_family("javascript")}
        self._packages = repository.build_files("package.json")
        self._by_name = {}
        for folder, said in sorted(self._packages.items()):
            self._by_name.setdefault(said.get("name"), []).append(folder)
        self._configs = {
            path: said
            for path, said in repository.build.items()
            if posixpath.basename(path).startswith(("tsconfig", "jsconfig"))
        }
        self._options_of = {}
        self._config_above = {}

    def resolve(self, facts):
        javascript = family(facts.language) == facts.language
        for entry in facts.imports:
            specifier = re.sub(r"[?!].*", "", entry.module)
            path = self._find(facts.path, specifier, javascript) if specifier else None
            yield entry, {path: entry.locals} if path else {}

    def _find(self, importer, specifier, javascript):
        folder = posixpath.dirname(importer)
        if re.match(r"\.{0,2}/|\.{1,2}$", specifier):
            if specifier.startswith("/"):
                return None
            base = join(folder, specifier)
            found = self._file_or_folder(base, javascript, specifier.endswith("/"))
            return found or self._root_dirs(importer, base, javascript)
        for base in self._mapped(importer, specifier):
            if found := self._file_or_folder(base, javascript):
                return found
        package = self._nearest_package(importer)
        if specifier.startswith("#"):
            if package is not None:
                imports = self._packages[package].get("imports")
                if found := self._exported(package, imports, specifier, javascript):
                    return found
        elif found := self._in_package(importer, specifier, javascript):
            return found
        if specifier.startswith(("@/", "~/", "#/")):
            for above in folders_above(importer):
                for base in (join(above, "src"), above):
                    inside = join(base, specifier[2:])
                    if found := self._file_or_folder(inside, javascript):
                        return found
        return None

    # Files and folders

    def _file_or_folder(self, base, javascript, only_folder=False):
        if not only_folder and (found := self._file(base, javascript)):
            return found
        return self._entry(base, javascript)

    def _file(self, base, javascript):
        """The source file of a path with or without its ending."""
        stem, ending = posixpath.splitext(base)
        if base in self._files:
            # TypeScript takes `x.ts` or `x.d.ts` for `./x.js`.
            beside = () if javascript else _SOURCES.get(ending, ())
            return next((stem + e for e in beside if stem + e in self._files), base)
        if ending in _SOURCES:
            for source in _SOURCES[ending]:
                if stem + source in self._files:
                    return self._undeclared(stem + source, javascript)
        for ending in (*_JS, *_TS) if javascript else (*_TS, *_JS):
            if base + ending in self._files:
                return base + ending
        return None

    def _undeclared(self, path, javascript):
        """For a JavaScript importer, the `.js` beside a `.d.ts`."""
        for ending in _DECLARATIONS:
            if javascript and path.endswith(ending):
                stem = path.removesuffix(ending)
                beside = (stem + e for e in _JS if stem + e in self._files)
                return next(beside, path)
        return path

    def _entry(self, folder, javascript):
        """What a folder stands for: the entry in its package.json, or its index."""
        said = self._packages.get(folder)
        if said is not None:
            for path in said.get("main", ()):
                if found := self._source_of(folder, path, javascript):
                    return found
        for inside in ("", "src") if said is not None else ("",):
            if found := self._file(join(folder, inside, "index"), javascript):
                return found
        return None

    def _source_of(self, package, path, javascript):
        """The file of an entry point, or the source that it is built from."""
        whole = join(package, path)
        found = self._file(whole, javascript) or (
            self._file(join(whole, "index"), javascript) if path else None
        )
        if found:
            return self._undeclared(found, javascript)
        parts = [part for part in path.split("/") if part not in (".", "")]
        built = 0
        while built < len(parts) - 1 and parts[built] in _BUILT:
            built += 1
        if not built:
            return None
        inside = "/".join(parts[built:])
        for ending in (*_DECLARATIONS, *_JS):
            inside = inside.removesuffix(ending)
        for root in ("src", "source", ""):
            for tail in (inside, posixpath.join(inside, "index")):
                if found := self._file(join(package, root, tail), javascript):
                    return self._undeclared(found, javascript)
        return None

    # Packages of this repository

    def _nearest_package(self, importer):
        above = folders_above(importer)
        return next((folder for folder in above if folder in self._packages), None)

    def _in_package(self, importer, specifier, javascript):
        parts = specifier.split("/")
        size = 2 if specifier.startswith("@") else 1
        folders = self._by_name.get("/".join(parts[:size]))
        own = self._nearest_package(importer)
        if not folders or not (own in folders or self._depends(importer, parts[:size])):
            return None
        package = own if own in folders else nearest(folders, importer)
        inside = "/".join(parts[size:])
        said = self._packages[package]
        if (exports := said.get("exports")) is not None:
            subpath = f"./{inside}" if inside else "."
            if found := self._exported(package, exports, subpath, javascript):
                return found
        if not inside:
            return self._entry(package, javascript)
        for root in ("", "src"):
            base = join(package, root, inside)
            if found := self._file_or_folder(base, javascript):
                return found
        return self._source_of(package, inside, javascript)

    def _depends(self, importer, parts):
        """Whether a package manager puts a package where the importer finds it."""
        said = [self._packages.get(folder) for folder in folders_above(importer)]
        said = [one for one in said if one is not None]
        name = "/".join(parts)
        # Where nothing is said, nothing is known.
        return not said or any(
            one.get("workspaces") or name in one.get("needs", ()) for one in said
        )

    def _exported(self, package, table, subpath, javascript):
        """What `exports` or `imports` of a package.json says of a path."""
        if not isinstance(table, dict) or not any(
            key.startswith((".", "#")) for key in table
        ):
            table = {".": table}
        for key, star in _matching(table, subpath):
            for target in _targets(table[key]):
                path = target.replace("*", star)
                if not path.startswith("."):
                    found = self._in_package(join(package, "x"), path, javascript)
                elif found := self._source_of(package, path, javascript):
                    pass
                if found:
                    return found
        return None

    # tsconfig.json

    def _mapped(self, importer, specifier):
        """Paths that `paths` and `baseUrl` give for a specifier, in their order."""
        config = self._config(importer)
        if config is None:
            return
        options = self._options(config)
        table, folder = options["paths"]
        for key, star in _matching(table, specifier):
            for target in table[key]:
                if isinstance(target, str):
                    yield join(folder, target.replace("*", star))
            break
        if options["base"] is not None:
            yield join(options["base"], specifier)

    def _root_dirs(self, importer, base, javascript):
        config = self._config(importer)
        roots = self._options(config)["roots"] if config is not None else []
        for root in roots:
            if base.startswith(f"{root}/"):
                for other in roots:
                    inside = join(other, base[len(root) + 1 :])
                    if found := self._file_or_folder(inside, javascript):
                        return found
        return None

    def _config(self, importer):
        """The nearest tsconfig.json or jsconfig.json above a file."""
        folder = posixpath.dirname(importer)
        if folder not in self._config_above:
            tries = (
                join(above, name)
                for above in folders_above(importer)
                for name in ("tsconfig.json", "jsconfig.json")
            )
            self._config_above[folder] = next(
                (path for path in tries if path in self._configs), None
            )
        return self._config_above[folder]

    def _options(self, path, seen=()):
        """`paths` with the folder they start from, and `baseUrl`, also inherited."""
        if path in self._options_of:
            return self._options_of[path]
        options = {"paths": ({}, ""), "base": None, "roots": []}
        if path in seen or path not in self._configs:
            return options
        seen = (*seen, path)
        said, folder = self._configs[path], posixpath.dirname(path)
        for parent in said.get("extends", ()):
            inherited = self._options(self._extended(path, parent), seen)
            options |= {k: v for k, v in inherited.items() if v not in (({}, ""), None)}
        if isinstance(said.get("base"), str):
            options["base"] = join(folder, said["base"])
        if said.get("paths"):
            base = options["base"]
            options["paths"] = (said["paths"], folder if base is None else base)
        if isinstance(said.get("roots"), list) and said["roots"]:
            options["roots"] = [join(folder, str(root)) for root in said["roots"]]
        for reference in said.get("references", ()):
            # A "solution" holds no files of its own; its parts have the paths.
            if options["paths"] == ({}, "") and options["base"] is None:
                inside = join(folder, reference)
                inside = (
                    inside if inside in self._configs else f"{inside}/tsconfig.json"
                )
                if posixpath.dirname(inside) == folder:
                    options = self._options(inside, seen)
        self._options_of[path] = options
        return options

    def _extended(self, path, parent):
        """The file that `extends` names: a path, or a file of a package."""
        if parent.startswith((".", "/")):
            base = join(posixpath.dirname(path), parent)
        else:
            parts = parent.split("/")
            size = 2 if parent.startswith("@") else 1
            folders = self._by_name.get("/".join(parts[:size]), [])
            base = join(nearest(folders, path) or "node_modules", *parts[size:])
        tries = (base, f"{base}.json", f"{base}/tsconfig.json")
        return next((t for t in tries if t in self._configs), "")


def _matching(table, name):
    """`(key, what its star stands for)` of the keys that match, the closest first."""
    if name in table:
        yield name, ""
    found = []
    for key in table:
        before, star, after = key.partition("*")
        if star and name.startswith(before) and name.endswith(after):
            if len(name) >= len(before) + len(after):
                found.append(
                    (len(before), key, name[len(before) : len(name) - len(after)])
                )
    for _, key, star in sorted(found, reverse=True):
        yield key, star


def _targets(value):
    """All paths of an entry of `exports`: those that TypeScript takes, then the others."""
    standard = list(_conditional(value, _CONDITIONS))
    yield from dict.fromkeys([*standard, *_conditional(value, None)])


def _conditional(value, conditions, depth=0):
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < 8:
        for inner in value:
            yield from _conditional(inner, conditions, depth + 1)
    elif isinstance(value, dict) and depth < 8:
        for condition, inner in value.items():
            if conditions is None or condition in conditions:
                yield from _conditional(inner, conditions, depth + 1)
