"""Rust's import edges by a resolver written apart from the product, as those of _edges.py.

Regular expressions read `mod`, `use` and the macros that declare modules; the tree starts
at the targets of every Cargo.toml.
"""

import posixpath
import re
import tomllib


def rust_edges(files, read, paths):
    """The module tree from Cargo.toml: `mod` and `use`, also inside of macros.

    Files that no crate reaches have no edges, as cargo never reads them.
    """
    code, macros = {}, {}
    for path, text in sorted(files.items()):
        text = _RUST_COMMENT.sub(lambda match: match[1] or " ", text)
        code[path], found = _rust_without_macros(text)
        macros |= found
    crates, libraries, edition, renamed = [], {}, {}, {}
    for path in sorted(paths):
        if posixpath.basename(path) != "Cargo.toml":
            continue
        said, folder = tomllib.loads(read(path)), posixpath.dirname(path)
        if "package" not in said:
            continue
        here = posixpath.join
        lib = here(folder, said.get("lib", {}).get("path", "src/lib.rs"))
        name = said.get("lib", {}).get("name", said["package"]["name"])
        libraries[name.replace("-", "_")] = lib
        edition[folder] = said["package"].get("edition", "2015")
        tables = [said, *said.get("target", {}).values()]
        for kind in ("dependencies", "dev-dependencies"):
            for table in tables:
                for local, how in table.get(kind, {}).items():
                    if isinstance(how, dict) and "package" in how:
                        renamed[folder, local.replace("-", "_")] = how["package"]
        roots = [lib, here(folder, "src/main.rs"), here(folder, "build.rs")]
        for kind in ("bin", "test", "bench", "example"):
            roots += [
                here(folder, t["path"]) for t in said.get(kind, ()) if "path" in t
            ]
        auto = r"(?:src/bin|tests|benches|examples)/(?:[^/]+|[^/]+/main)\.rs"
        top = re.escape(f"{folder}/" if folder else "")
        roots += [p for p in files if re.fullmatch(top + auto, p)]
        crates += [(root, folder) for root in dict.fromkeys(roots) if root in files]
    tree, modules = {}, {}
    edges = set()

    def grow(root, folder, path, names, own, depth=0):
        if (root, folder, path, names) in modules or depth > 40:
            return
        # Two files may be one module, each under a `cfg` of its own.
        tree.setdefault((root, names), path)
        modules[root, folder, path, names] = True
        for block, name, attribute in _rust_modules(code[path], macros):
            inner = posixpath.join(own, *block)
            usual = [f"{inner}/{name}.rs", f"{inner}/{name}/mod.rs"]
            tries = [[path.lstrip("/") for path in usual]]
            if name == "*":  # automod, with a folder from that of Cargo.toml
                above = posixpath.join(folder, attribute)
                inside = re.compile(
                    re.escape(above) + r"/(?!mod\b|lib\b|main\b)\w+\.rs"
                )
                tries = [[p] for p in files if inside.fullmatch(p) and p != path]
            elif attribute:
                base = inner if block else posixpath.dirname(path)
                files_named = re.findall(r'path\s*=\s*"([^"]+)"', attribute)
                named = [posixpath.normpath(f"{base}/{f}") for f in files_named]
                tries = [[p] for p in named] + (
                    tries if "cfg_attr" in attribute else []
                )
            for known in tries:
                child = next((p for p in known if p in files), None)
                if child:
                    edges.add((path, child))
                    is_mod = child.endswith("/mod.rs")
                    below = posixpath.dirname(child) if is_mod else child[:-3]
                    last = posixpath.basename(child)[:-3] if name == "*" else name
                    grow(root, folder, child, (*names, *block, last), below, depth + 1)

    for root, folder in crates:
        grow(root, folder, root, (), posixpath.dirname(root))

    def deepest(root, names):
        for end in range(len(names), -1, -1):
            if (root, names[:end]) in tree:
                return tree[root, names[:end]]
        return None

    for root, folder, path, names in modules:
        for block, parts in _rust_uses(code[path]):
            here, first = (*names, *block), parts[0]
            if first in ("crate", "self", "super"):
                at = () if first == "crate" else here
                while parts and parts[0] in ("crate", "self", "super"):
                    at = at[:-1] if parts[0] == "super" else at
                    parts = parts[1:]
                found = deepest(root, (*at, *parts))
            elif (root, (*names, first)) in tree:
                found = deepest(root, (*names, *parts))
            elif edition[folder] == "2015" and (root, (first,)) in tree:
                found = deepest(root, tuple(parts))
            else:
                crate = renamed.get((folder, first), first).replace("-", "_")
                library = libraries.get(crate)
                found = deepest(library, tuple(parts[1:])) if library else None
            if found:
                edges.add((path, found))
    return {(a, b) for a, b in edges if a != b}


_RUST_COMMENT = re.compile(
    r'(b?r(#*)".*?"\2|b?"(?:\\.|[^"\\])*"|\'(?:\\.|[^\\\'])\')|//[^\n]*|/\*.*?\*/', re.S
)
_RUST_TOKEN = re.compile(
    r'(?P<path>#\s*\[[^\]]*\bpath\s*=\s*"[^"]+"[^\]]*\])|#!?\[[^\]]*\]'
    r"|\bmod\s+(?:r#)?(?P<mod>\w+)\s*(?P<end>[;{])"
    r'|automod::dir!\s*\(\s*"(?P<dir>[^"]+)"'
    r"|\b(?P<call>\w+)!(?=\s*[({\[])"
    r'|(?P<use>\buse\s[^;"]*;)|\bextern\s+crate\s+(?P<crate>\w+)'
    r"|(?P<open>\{)|(?P<close>\})"
    r'|b?r(?P<hash>#*)".*?"(?P=hash)|b?"(?:\\.|[^"\\])*"|\'(?:\\.|[^\\\'])\'',
    re.S,
)


def _rust_without_macros(code):
    """`(code without macros and quoted code, {macro: body that declares modules})`."""
    macros, kept, place = {}, [], 0
    opening = r"\bmacro_rules!\s*(\w+)\s*\{|\b(?:quote|quote_spanned|parse_quote)!\s*\{"
    while found := re.compile(opening).search(code, place):
        kept.append(code[place : found.start()])
        depth = 1
        for match in _RUST_TOKEN.finditer(code, found.end()):
            opens = match["open"] or match["end"] == "{"
            depth += bool(opens) - bool(match["close"])
            if not depth:
                break
        place = match.end() if not depth else len(code)
        body = code[found.end() : place - 1]
        if found[1] and re.search(r"\bmod\s+\w+\s*;", body):
            macros[found[1]] = body
    return "".join([*kept, code[place:]]), macros


def _rust_tokens(code):
    """`(names of the inline modules around, match)`; calls are read as if not there."""
    stack = []
    for match in _RUST_TOKEN.finditer(code):
        if match["open"]:
            stack.append(None)
        elif match["close"]:
            stack[-1:] = []
        yield tuple(name for name in stack if name), match
        if match["mod"] and match["end"] == "{":
            stack.append(match["mod"])


def _rust_modules(code, macros, depth=0):
    attribute = ""
    for block, match in _rust_tokens(code):
        if match["path"]:
            attribute += match["path"]
        elif match["dir"]:
            yield block, "*", match["dir"]
        elif match["call"] in macros and depth < 5:
            for inner, *rest in _rust_modules(macros[match["call"]], macros, depth + 1):
                yield (*block, *inner), *rest
        elif match["mod"]:
            if match["end"] == ";":
                yield block, match["mod"], attribute
            attribute = ""


def _rust_uses(code):
    for block, match in _rust_tokens(code):
        if match["crate"] and match["crate"] != "self":
            yield (), [match["crate"]]
        if match["use"]:
            tree = re.sub(r"\s+as\s+\w+|\s|r#", "", match["use"][3:].rstrip(";"))
            for path in _rust_paths(tree):
                parts = [p for p in path.split("::") if p and p not in ("*",)]
                parts = (
                    parts[:-1] if parts[-1:] == ["self"] and len(parts) > 1 else parts
                )
                if parts:
                    yield block, parts


def _rust_paths(tree):
    """Unfold the innermost braces until there are none."""
    if not (found := re.search(r"([^{},]*)\{([^{}]*)\}", tree)):
        return tree.split(",")
    head, inner = found[1], found[2].split(",")
    unfolded = ",".join(head + part for part in inner if part)
    return _rust_paths(tree[: found.start()] + unfolded + tree[found.end() :])
