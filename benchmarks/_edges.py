"""Import edges by resolvers written apart from the product: regular expressions and rules.

Each takes `{path: text}` of the files of one language, and all of a repository's paths
with a reader for its build files; each gives a set of `(importer, imported)`.

Python is in data_graph.py (ast, and the import system's own finder), JavaScript and
TypeScript in _edges.js (the TypeScript compiler), Rust in _edges_rust.py.
"""

import collections
import posixpath
import re
import xml.etree.ElementTree

from codegemma_keras.data.order.families.csharp import DOTNET_METHODS

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
    """Namespaces and the types directly in them; a used one must be mentioned.

    Extension methods count by a call, unless ordinary methods have the name, too.
    """
    spaces, names, words, lines = {}, {}, {}, {}
    extends, calls, members, ordinary = {}, {}, {}, set(DOTNET_METHODS)
    every = collections.defaultdict(set)
    projects = {posixpath.dirname(p) for p in paths if p.endswith(".csproj")}

    def project(path):
        folder = posixpath.dirname(path)
        while folder and folder not in projects:
            folder = posixpath.dirname(folder)
        return folder

    for path in paths:
        if path.endswith(
            (".csproj", "Directory.Build.props", "Directory.Build.targets")
        ):
            folder = posixpath.dirname(path)
            for item in xml.etree.ElementTree.fromstring(read(path).encode()).iter():
                if item.tag.endswith("Using") and item.get("Include"):
                    one = bool(item.get("Static") or item.get("Alias"))
                    for other in projects:
                        if f"{other}/".startswith(f"{folder}/" if folder else ""):
                            every[other].add((item.get("Include"), one))
    for path, text in files.items():
        code = bare(text)
        spaces[path] = set(re.findall(r"^\s*namespace\s+([\w.]+)", code, re.M))
        lines[path] = set()
        using = r"^\s*(global\s+)?using\s+(static\s+)?(?:(\w+)\s*=\s*)?([\w.]+)[^;(]*;"
        for everywhere, static, alias, name in re.findall(using, code, re.M):
            entry = (name, bool(static or alias))
            (every[project(path)] if everywhere else lines[path]).add(entry)
        head = r"^[ \t]*(?:[\w?,.<>\[\]]+[ \t]+)+(\w+)[ \t]*(?:<[^>()]*>)?\s*\(([^)]*)"
        methods = re.findall(head, code, re.M)
        methods = [m for m in methods if not _CSHARP_WORD.search(m[0])]
        extends[path] = {n for n, first in methods if _IS_EXTENSION.match(first)}
        members[path] = {n for n, first in methods if not _IS_EXTENSION.match(first)}
        ordinary |= members[path]
        calls[path] = set(re.findall(r"\.\s*(\w+)\s*(?:<[^()<>;]*>)?\s*\(", code))
        body = re.sub(using, "", code, flags=re.M)
        body = re.sub(r"^\s*namespace\s+[\w.]+", "", body, flags=re.M)
        words[path] = set(re.findall(r"\w+", body))
        top = outermost(re.sub(r"\[[^\]\n]*\]", "", _without_namespaces(code)))
        names[path] = set(
            re.findall(
                r"\b(?:record\s+(?:class|struct)|class|struct|interface|enum|record)\s+(\w+)",
                top,
            )
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
                own = (name, one) in lines[path]
                for p in by_space[space]:
                    known = {last, *members[p]}
                    if last in names[p] and (own or known & words[path]):
                        edges.add((path, p))
            else:
                edges |= {
                    (path, p)
                    for p in by_space[name]
                    if names[p] & words[path] or (extends[p] - ordinary) & calls[path]
                }
    return {(a, b) for a, b in edges if a != b}


_IS_EXTENSION = re.compile(r"\s*(?:\[[^\]]*\]\s*)?this\s")
_CSHARP_WORD = re.compile(
    r"^(?:if|for|foreach|while|switch|using|lock|catch|return|new)$"
)


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
