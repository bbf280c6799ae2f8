"""Import edges by resolvers written apart from the product: regular expressions and rules.

Each takes `{path: text}` of the files of one language, and all of a repository's paths
with a reader for its build files; each gives a set of `(importer, imported)`.

Python is in data_graph.py (ast, and the import system's own finder), JavaScript and
TypeScript in _edges.js (the TypeScript compiler).
"""

import collections
import posixpath
import re
import tomllib

_STRINGS = {
    "c": re.compile(r'//[^\n]*|/\*.*?\*/|@"(?:""|[^"])*"|"(?:\\.|[^"\\\n])*"', re.S),
    "go": re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|`[^`]*`', re.S),
    "kotlin": re.compile(
        r'//[^\n]*|/\*.*?\*/|""".*?"""|"(?:\\.|\$\{[^{}]*\}|[^"\\\n])*"|\'(?:\\.|[^\'\\])\'',
        re.S,
    ),
}


def bare(text, style="c"):
    return _STRINGS[style].sub(" ", text)


def outermost(text, opens="{([", closes="})]"):
    """The text outside of brackets."""
    depth, kept = 0, []
    for character in text:
        depth += (character in opens) - (character in closes)
        if depth <= 0 or (depth == 1 and character in opens):
            kept.append(character)
            depth = max(depth, 0)
    return "".join(kept)


def nearest(paths, importer):
    def shared(path):
        pairs = zip(path.split("/"), importer.split("/"), strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)

    return min(paths, key=lambda p: (-shared(p), p.count("/"), p))


def jvm_edges(files, read, paths):
    """Declared packages; names of stars must be mentioned."""
    package, names, words, lines = {}, {}, {}, {}
    for path, text in files.items():
        code = bare(text, "kotlin")
        found = re.search(r"^\s*package\s+([\w.`]+)", code, re.M)
        package[path] = found[1].replace("`", "") if found else ""
        name = r"([\w`]+(?:\.[\w`]+)*(?:\.\*)?)"
        lines[path] = [
            entry.replace("`", "")
            for entry in re.findall(
                rf"^[ \t]*import\s+(?:static\s+)?{name}", code, re.M
            )
        ]
        body = re.sub(r"^[ \t]*(?:import|package)\s[^\n]*", "", code, flags=re.M)
        words[path] = set(re.findall(r"\w+", body))
        names[path] = jvm_names(path, outermost(body))
    by_package = collections.defaultdict(list)
    for path in sorted(files):
        by_package[package[path]].append(path)
    edges = set()
    for path in files:
        for entry in lines[path]:
            parts = entry.split(".")
            if parts[-1] == "*" and ".".join(parts[:-1]) in by_package:
                for other in by_package[".".join(parts[:-1])]:
                    if names[other] & words[path]:
                        edges.add((path, other))
                continue
            parts = parts[:-1] if parts[-1] == "*" else parts
            for end in range(len(parts), 0, -1):
                known = by_package.get(".".join(parts[: end - 1]), ())
                found = [other for other in known if parts[end - 1] in names[other]]
                if found:
                    edges.add((path, nearest(found, path)))
                    break
    return edges


def jvm_names(path, code):
    names = set(
        re.findall(
            r"\b(?:class|interface|object|typealias|enum(?! class)|record)\s+`?(\w+)",
            code,
        )
    )
    if path.endswith(".java"):
        return names - {"class"}
    names |= set(re.findall(r"\bfun\s[^({=]*?`?(\w+)`?\s*\(", code))
    typed = r"\bva[lr]\s+(?:<[^>]*>\s*)?(?:[\w<>?,.*]+\.)?`?(\w+)"
    names |= set(re.findall(typed, code))
    return (names - {"class"}) | {posixpath.basename(path)[:-3].capitalize() + "Kt"}


def csharp_edges(files, read, paths):
    """Namespaces and the types directly in them; a used one must be mentioned."""
    spaces, names, words, lines = {}, {}, {}, {}
    every = collections.defaultdict(set)
    projects = {posixpath.dirname(p) for p in paths if p.endswith(".csproj")}

    def project(path):
        folder = posixpath.dirname(path)
        while folder and folder not in projects:
            folder = posixpath.dirname(folder)
        return folder

    for path, text in files.items():
        code = bare(text)
        spaces[path] = set(re.findall(r"^\s*namespace\s+([\w.]+)", code, re.M))
        lines[path] = set()
        using = r"^\s*(global\s+)?using\s+(static\s+)?(?:(\w+)\s*=\s*)?([\w.]+)[^;(]*;"
        for everywhere, static, alias, name in re.findall(using, code, re.M):
            entry = (name, bool(static or alias))
            (every[project(path)] if everywhere else lines[path]).add(entry)
        body = re.sub(using, "", code, flags=re.M)
        body = re.sub(r"^\s*namespace\s+[\w.]+", "", body, flags=re.M)
        words[path] = set(re.findall(r"\w+", body))
        top = outermost(re.sub(r"\[[^\]\n]*\]", "", _without_namespaces(code)))
        names[path] = set(
            re.findall(r"\b(?:class|struct|interface|enum|record)\s+(\w+)", top)
        )
        names[path] |= set(
            re.findall(r"\bdelegate\s[^;(]*?(\w+)\s*(?:<[^(]*>)?\s*\(", top)
        )
    by_space = collections.defaultdict(list)
    for path in files:
        for space in spaces[path] or {""}:
            by_space[space].append(path)
    edges = set()
    for path in files:
        for name, one in lines[path] | every[project(path)]:
            space, _, last = name.rpartition(".")
            if not one and name not in by_space:
                # `using B` within `namespace A.C` may mean A.C.B or A.B.
                outer = [
                    ".".join([*own.split(".")[:end], name])
                    for own in spaces[path]
                    for end in range(own.count(".") + 1, 0, -1)
                ]
                name = next((full for full in outer if full in by_space), name)
            if one:
                edges |= {(path, p) for p in by_space[space] if last in names[p]}
            else:
                edges |= {(path, p) for p in by_space[name] if names[p] & words[path]}
    return {(a, b) for a, b in edges if a != b}


def _without_namespaces(code):
    """Namespaces' own braces do not nest what is in them."""
    while found := re.search(r"\bnamespace\s+[\w.]+\s*\{", code):
        depth, place = 1, found.end()
        while depth and place < len(code):
            depth += (code[place] == "{") - (code[place] == "}")
            place += 1
        inside = code[found.end() : place - 1]
        code = f"{code[: found.start()]} {inside} {code[place:]}"
    return code


def go_edges(files, read, paths):
    """go.mod, and the selectors of each import."""
    modules = {}
    for path in paths:
        if posixpath.basename(path) == "go.mod":
            found = re.search(r"^module\s+(\S+)", read(path), re.M)
            modules[found[1]] = posixpath.dirname(path)
    folders = collections.defaultdict(list)
    package, names = {}, {}
    for path, text in files.items():
        folders[posixpath.dirname(path)].append(path)
        code = bare(text, "go")
        found = re.search(r"^package\s+(\w+)", code, re.M)
        package[path] = found[1] if found else "main"
        one = r"^(?:func|type|var|const)\s+([A-Z]\w*)"
        names[path] = set(re.findall(one, code, re.M))
        for block in re.findall(r"^(?:var|const|type)\s*\((.*?)^\)", code, re.M | re.S):
            for line in outermost(block).split("\n"):
                if found := re.match(r"\s*(\w+(?:\s*,\s*\w+)*)", line):
                    listed = re.split(r"\s*,\s*", found[1])
                    names[path] |= {n for n in listed if n[0].isupper()}
    edges = set()
    for path, text in files.items():
        code = bare(text, "go")
        entry = r'^\s*(?:import\s+)?(?:([\w.]+)\s+)?"([\w./~-]+)"\s*(?://.*)?;?$'
        for local, name in re.findall(entry, text, re.M):
            tops = [m for m in modules if name == m or name.startswith(f"{m}/")]
            if not tops or local == "_":
                continue
            top = max(tops, key=len)
            inside = name[len(top) :].strip("/")
            folder = posixpath.join(modules[top], inside).strip("/")
            for other in folders.get(folder, ()):
                beside = folder == posixpath.dirname(path)
                if package[other] == "main" or (
                    package[other] == package[path] and beside
                ):
                    continue
                if other.endswith("_test.go") and not beside:
                    continue
                call = re.escape(local or package[other])
                used = set(re.findall(rf"(?<![\w.]){call}\s*\.\s*([A-Z]\w*)", code))
                if local == ".":
                    used = set(re.findall(r"\b[A-Z]\w*", code))
                if used & names[other]:
                    edges.add((path, other))
    return edges


def cpp_edges(files, read, paths):
    """Beside the includer, then on include paths: every folder, the nearest first."""
    edges = set()
    by_name = collections.defaultdict(list)
    for path in files:
        by_name[posixpath.basename(path)].append(path)
    for path, text in files.items():
        text = re.sub(r"/\*.*?\*/", " ", text, flags=re.S)
        for opens, name in re.findall(
            r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)', text, re.M
        ):
            near = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
            tail = posixpath.normpath(name).replace("../", "")
            if opens == '"' and near in files:
                edges.add((path, near))
            elif opens == '"' or "/" in tail:
                known = by_name[posixpath.basename(tail)]
                found = [p for p in known if f"/{p}".endswith(f"/{tail}")]
                if found:
                    edges.add((path, nearest(found, path)))
    return {(a, b) for a, b in edges if a != b}


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
