"""Rust: the module tree of every crate, and the file of the module that a path means.

Crates start at the roots that Cargo knows: `src/lib.rs`, `src/main.rs`, `src/bin/*.rs`,
`tests/`, `benches/`, `examples/`, `build.rs`, and every `path` in Cargo.toml. `mod x;`
hangs a file below its parent, also with `#[path]`, inside of a macro (`cfg_net! { mod net;
}`), in the body of a macro where that is called, and for each file of a folder by
`automod::dir!`. A path means the deepest module that it names; the names of a workspace's
crates and a crate's own name lead to its library. A file that no `mod` reaches belongs to
no crate and imports nothing. Where there is no Cargo.toml, the tree of folders decides.

Left out: re-exports (`pub use`): the file with the `pub use` is what is meant; `include!`.
"""

import collections
import posixpath
import re

from codegemma_keras.data.languages import parser, split_name
from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import folders_above, join, nearest
from codegemma_keras.data.order.syntax import Source, text_of

QUERIES = {
    "rust": """
        (use_declaration argument: (_) @import)
        (extern_crate_declaration name: (identifier) @crate)
        (mod_item !body name: (identifier) @child)
        (macro_definition (macro_rule right: (token_tree) @rule))
        (source_file (macro_invocation (token_tree) @macro))
        (source_file (expression_statement (macro_invocation (token_tree) @macro)))
        (declaration_list (macro_invocation (token_tree) @macro))""",
}
_HAS_ITEMS = re.compile(r"\b(?:mod\s+\w+\s*;|use\s+[\w:{])")
_HAS_MODULES = re.compile(r"\bmod\s+\w+\s*;")
_PATH = re.compile(r'path\s*=\s*"([^"]+)"')


def read(source: Source) -> Facts:
    imports = tuple(_imports(source))
    return Facts(source.path, "rust", imports, uses=source.uses(imports))


def _imports(source, outer=(), depth=0):
    yield from _modules(source, outer)
    for node in source.nodes("crate"):
        name = text_of(node)
        if name != "self":
            yield Import(f"::{name}", locals=(name,))
    for node in source.nodes("import"):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text_of(node), flags=re.S)
        inside = (*outer, *_inline_modules(node))
        for path in expand_use(re.sub(r"\s+", " ", text)):
            path, _, alias = path.partition(" as ")
            path, names = path.replace(" ", ""), ()
            if path.endswith("::*"):
                path, names = path[:-3], ("*",)
            path = _from_file(path.removesuffix("::self"), inside)
            local = alias.strip() or path.rpartition("::")[2]
            yield Import(path, names, kind=_when(node), locals=(local,))
    for node in source.nodes("macro") if depth < 8 else ():
        text = text_of(node)[1:-1]
        yield from _called(node, outer)
        if _HAS_ITEMS.search(text):
            inside = (*outer, *_inline_modules(node))
            for block in _item_blocks(text):
                inner = Source.parse("", "rust", block, QUERIES["rust"])
                yield from _imports(inner, inside, depth + 1)


def _modules(source, outer=(), macro=()):
    """The `mod x;` of a file, and those in the bodies of its macros (`locals`: `m!`)."""
    for node in source.nodes("child"):
        inside = (*outer, *_inline_modules(node.parent))
        module = "::".join((*inside, text_of(node).removeprefix("r#")))
        files = _path_attributes(node.parent)
        yield Import(module, files, kind="child", locals=macro)
    for node in source.nodes("rule") if not macro else ():
        text = text_of(node)[1:-1]
        if _HAS_MODULES.search(text):
            name = text_of(node.parent.parent.child_by_field_name("name"))
            body = Source.parse("", "rust", text, QUERIES["rust"])
            yield from _modules(body, macro=(f"{name}!",))


def _called(node, outer):
    """`m!` for a macro that may declare modules here, `*` for `automod::dir!`."""
    name = text_of(node.parent.child_by_field_name("macro"))
    inside = (*outer, *_inline_modules(node))
    if name == "automod::dir":
        yield Import("::".join((*inside, "*")), kind="child")
    elif "::" not in name:
        yield Import("::".join((*inside, f"{name}!")), kind="child")


def _item_blocks(text):
    """A macro's contents, if they are items; else those of its blocks (`cfg_if!`)."""
    root = parser("rust").parse(text.encode()).root_node
    first = root.named_children[:1]
    if first and first[0].type == "expression_statement" and "{" in text:
        return re.findall(r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", text)
    return [text]


def _from_file(path, inside):
    """A path in inline modules `inside`, as seen from the file's own module."""
    parts = path.split("::")
    if not inside or parts[0] not in ("self", "super"):
        return path
    up = 0
    while parts and parts[0] in ("self", "super"):
        up += parts.pop(0) == "super"
    if up <= len(inside):
        return "::".join(("self", *inside[: len(inside) - up], *parts))
    return "::".join(["super"] * (up - len(inside)) + parts)


def _inline_modules(node):
    names = []
    while (node := node.parent) is not None:
        if node.type == "mod_item":
            names.insert(0, text_of(node.child_by_field_name("name")))
    return tuple(names)


def _path_attributes(node):
    """The files of `#[path = "x.rs"]` before a `mod` item; `""` is the usual one.

    `#[cfg_attr(unix, path = "x.rs")]` leaves the usual one possible.
    """
    found, certain = [], False
    node = node.prev_named_sibling
    while node is not None and node.type in ("attribute_item", "line_comment"):
        text = text_of(node) if node.type == "attribute_item" else ""
        if match := _PATH.search(text):
            found.append(match[1])
            certain |= "cfg_attr" not in text
        node = node.prev_named_sibling
    return tuple(found) if certain or not found else (*found, "")


def _when(node):
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


class Resolver:
    """See the module.

    A module is `(root file of its crate, names from there)`.
    """

    def __init__(self, repository):
        self._paths = repository.paths
        self._facts = {f.path: f for f in repository.of_family("rust")}
        self._packages = repository.build_files("Cargo.toml")
        self._modules_of = collections.defaultdict(list)  # file -> modules
        self._file_of = {}  # module -> file
        self._macros = collections.defaultdict(lambda: collections.defaultdict(list))
        for path, facts in sorted(self._facts.items()):
            for entry in facts.imports:
                if entry.kind == "child" and entry.locals:
                    self._macros[entry.locals[0]][path].append(entry)
        self._roots = self._find_roots()
        for root in self._roots:
            self._grow(root, (root, ()))
        for path in sorted(self._facts):
            if path not in self._modules_of and self._package(path) is None:
                self._place_by_folder(path)
        self._libraries = self._find_libraries()

    # The trees of modules

    def _find_roots(self):
        roots = {}
        for folder, said in self._packages.items():
            for path in (said.get("lib_path", ""), *said.get("targets", ())):
                roots[join(folder, path)] = True
        for path in self._facts:
            folder, name = posixpath.split(path)
            above, last = posixpath.split(folder)
            inner = posixpath.split(above)[1]
            if (
                (name in ("lib.rs", "main.rs") and last in ("src", ""))
                or (last == "bin" and inner == "src")
                or (name == "main.rs" and inner in ("bin", "examples", "tests"))
                or (
                    (last in ("tests", "benches", "examples"))
                    and above in self._packages
                )
                or (name == "build.rs" and folder in self._packages)
            ):
                roots[path] = True
        return dict.fromkeys(sorted(roots.keys() & self._facts.keys()))

    def _grow(self, file, module):
        """Hang a file, and all that it declares, below a crate's root."""
        stack = [(file, module)]
        while stack:
            file, module = stack.pop()
            if module in self._modules_of[file] or len(module[1]) > 64:
                continue
            # Two files may be one module, each under a `cfg` of its own.
            self._file_of.setdefault(module, file)
            self._modules_of[file].append(module)
            root, names = module
            children = [
                (child, (root, (*names, *below)))
                for entry in self._facts[file].imports
                for child, below in self._children(file, entry)
            ]
            stack.extend(reversed(children))

    def _children(self, file, entry):
        """`(file, names below)` of the modules that a statement declares; mostly one."""
        if entry.kind != "child" or entry.locals:
            return  # In the body of a macro it declares nothing.
        *inside, name = entry.module.split("::")
        if name.endswith("!"):
            known = self._macros.get(name, {})
            for other in known.get(nearest(known, file), ()):
                module = "::".join((*inside, other.module))
                other = Import(module, other.names, kind="child")
                yield from self._children(file, other)
        elif name == "*":
            folder = join(self._own_folder(file), *inside)
            for path in sorted(self._facts):
                above, stem = split_name(path)
                if above == folder and stem not in ("mod", "lib", "main"):
                    if path != file:
                        yield path, (*inside, stem)
        else:
            for path in self._child_files(file, inside, name, entry.names):
                yield path, (*inside, name)

    def _own_folder(self, file):
        """Where the modules of a file lie."""
        folder, stem = split_name(file)
        return folder if file in self._roots or stem == "mod" else join(folder, stem)

    def _child_files(self, file, inside, name, attributes):
        base = join(self._own_folder(file), *inside)
        for attribute in attributes or ("",):
            if attribute:
                tries = [join(base if inside else posixpath.dirname(file), attribute)]
            else:
                tries = [join(base, f"{name}.rs"), join(base, name, "mod.rs")]
            if path := next((path for path in tries if path in self._facts), None):
                yield path

    def _place_by_folder(self, path):
        """The module of a file without a Cargo.toml above, as its folders have it."""
        folder, stem = split_name(path)
        for above in folders_above(path):
            for name in ("lib.rs", "main.rs"):
                root = join(above, name)
                if root in self._modules_of and root != path:
                    inside = folder[len(above) :].strip("/")
                    parts = tuple(inside.split("/")) if inside else ()
                    parts += () if stem == "mod" else (stem,)
                    self._modules_of[path].append((root, parts))
                    self._file_of.setdefault((root, parts), path)
                    return
        if stem in ("lib", "main"):
            self._roots[path] = None
        self._grow(path, (path, ()))

    def _find_libraries(self):
        """`{crate name in code: roots of libraries}`."""
        found = collections.defaultdict(list)
        for folder, said in self._packages.items():
            root = join(folder, said.get("lib_path") or "src/lib.rs")
            if root in self._facts and said.get("name"):
                name = said.get("lib") or said["name"]
                found[name.replace("-", "_")].append(root)
        if not found:
            # No Cargo.toml: `name/src/lib.rs`.
            for path in self._facts:
                if path.endswith("src/lib.rs"):
                    name = posixpath.basename(path.removesuffix("/src/lib.rs"))
                    found[name.replace("-", "_")].append(path)
        return found

    # Paths

    def resolve(self, facts):
        modules = self._modules_of.get(facts.path, ())[:4]
        for entry in facts.imports if modules else ():
            found = {path: () for path, _ in self._children(facts.path, entry)}
            for module in modules if entry.kind != "child" else ():
                if path := self._find(facts, entry, module):
                    found[path] = entry.locals
            yield entry, found

    def _find(self, facts, entry, module):
        root, here = module
        parts = [p.removeprefix("r#") for p in entry.module.split("::")]
        if parts[0] == "":
            return self._in_library(facts, parts[1:])
        if parts[0] == "crate":
            return self._deepest(root, (), parts[1:])
        if parts[0] in ("self", "super"):
            while parts and parts[0] in ("self", "super"):
                here = here[:-1] if parts.pop(0) == "super" else here
            return self._deepest(root, here, parts)
        if (root, (*here, parts[0])) in self._file_of:
            return self._deepest(root, here, parts)
        package = self._package(facts.path)
        if self._packages.get(package, {}).get("edition") == "2015":
            if (root, (parts[0],)) in self._file_of:
                return self._deepest(root, (), parts)
        return self._in_library(facts, parts)

    def _deepest(self, root, base, parts):
        """The file of the longest prefix of `base` and `parts` that is a module."""
        for end in range(len(parts), -1, -1):
            if path := self._file_of.get((root, (*base, *parts[:end]))):
                return path
        # `base` is an inline module: the file around it.
        for end in range(len(base) - 1, -1, -1):
            if path := self._file_of.get((root, base[:end])):
                return path
        return None

    def _package(self, path):
        above = folders_above(path)
        return next((folder for folder in above if folder in self._packages), None)

    def _in_library(self, facts, parts):
        name = parts[0]
        package = self._package(facts.path)
        renamed = self._packages.get(package, {}).get("dependencies", {}).get(name)
        roots = self._libraries.get(name, ())
        if renamed:
            crate, folder = renamed
            roots = self._libraries.get(crate.replace("-", "_"), roots)
            inside = join(package, folder) if folder else None
            within = [r for r in roots if inside and r.startswith(f"{inside}/")]
            roots = within or roots
        root = nearest(roots, facts.path)
        return self._deepest(root, (), parts[1:]) if root else None
