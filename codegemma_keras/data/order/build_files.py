"""What is read of build files: where modules lie and what they are called.

Each reader takes the text and gives plain values that go through JSON. A file that cannot
be parsed says nothing, and is no error: resolution then falls back on the tree.

    go.mod                              module path, `replace` by a folder
    Cargo.toml                          crate name, edition, paths of targets, dependencies
    package.json                        name, entry points, `exports`, `imports`, names of
                                        dependencies, that it has workspaces
    tsconfig*.json, jsconfig*.json      baseUrl, paths, extends, outDir, rootDir
    *.csproj, Directory.Build.*         that there is a C# project; `<Using>` items
    pyproject.toml, setup.cfg           that there is a Python project; `package-dir`

Nothing of it is executed. setup.py counts as a project by its name alone.
"""

import json
import posixpath
import re
import tomllib


def build_reader(path: str):
    """The reader of a file, or None if it is no build file that matters here."""
    name = posixpath.basename(path)
    if name in _READERS:
        return _READERS[name]
    if re.fullmatch(r"[tj]sconfig\b[\w.-]*\.json", name):
        return _tsconfig
    if name.endswith(".csproj") or name in _MSBUILD:
        return _msbuild
    return None


_MSBUILD = ("Directory.Build.props", "Directory.Build.targets")


def _go_mod(text):
    text = re.sub(r"//[^\n]*", "", text)
    module = re.search(r'^\s*module\s+"?([^\s"]+)', text, re.M)
    local = re.findall(
        r"^\s*(?:replace\s+)?(\S+)(?:\s+v\S+)?\s+=>\s+(\.{1,2}(?:/\S*)?)\s*$",
        text,
        re.M,
    )
    return {"module": module[1] if module else "", "replace": dict(local)}


def _cargo(text):
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    package, lib = _table(value, "package"), _table(value, "lib")
    targets = []
    for kind in ("bin", "test", "bench", "example"):
        listed = value.get(kind)
        for target in listed if isinstance(listed, list) else ():
            if isinstance(target, dict) and isinstance(target.get("path"), str):
                targets.append(target["path"])
    build = package.get("build")
    return {
        "name": _string(package, "name"),
        # A member may write `edition.workspace = true`; a workspace is newer than 2015.
        "edition": str(package.get("edition", "2015")),
        "lib": _string(lib, "name"),
        "lib_path": _string(lib, "path"),
        "targets": targets + ([build] if isinstance(build, str) else []),
        "dependencies": _cargo_dependencies(value),
    }


def _cargo_dependencies(value):
    """`{name in the code: (package, folder)}` of those with a path or another name."""
    found = {}
    tables = [value, _table(value, "workspace")]
    tables += [t for t in _table(value, "target").values() if isinstance(t, dict)]
    for table in tables:
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, how in _table(table, kind).items():
                if isinstance(how, dict) and ("path" in how or "package" in how):
                    package = _string(how, "package") or name
                    found[name.replace("-", "_")] = [package, _string(how, "path")]
    return found


_DEPENDENCIES = (
    "dependencies",
    "devDependencies",
    "peerDependencies",
    "optionalDependencies",
)


def _package_json(text):
    value = _json(text)
    return {
        "name": _string(value, "name"),
        "main": [
            value[key]
            for key in ("source", "types", "typings", "module", "main")
            if isinstance(value.get(key), str)
        ],
        "needs": sorted(
            {name for kind in _DEPENDENCIES for name in _table(value, kind)}
        ),
        "workspaces": bool(value.get("workspaces")),
        "exports": value.get("exports"),
        "imports": value.get("imports"),
    }


def _tsconfig(text):
    value = _json(text)
    options = _table(value, "compilerOptions")
    extends = value.get("extends") or []
    paths = _table(options, "paths")
    references = value.get("references")
    return {
        "extends": [extends] if isinstance(extends, str) else list(map(str, extends)),
        "base": options.get("baseUrl"),
        "paths": {k: v for k, v in paths.items() if isinstance(v, list)} or None,
        "out": options.get("outDir"),
        "root": options.get("rootDir"),
        "roots": options.get("rootDirs") or [],
        "references": [
            _string(entry, "path")
            for entry in (references if isinstance(references, list) else ())
            if isinstance(entry, dict)
        ],
    }


def _msbuild(text):
    """`<Using Include="A.B" Static="true" Alias="X" />` items; a project by its place."""
    usings = []
    for item in re.findall(
        r"<Using\s([^<>]*)>", re.sub(r"<!--.*?-->", "", text, flags=re.S)
    ):
        said = {k.lower(): v for k, v in re.findall(r'(\w+)\s*=\s*"([^"]*)"', item)}
        static = said.get("static", "").lower() == "true"
        for name in said.get("include", "").split(";"):
            if re.fullmatch(r"[\w.]+", name.strip()):
                usings.append([name.strip(), static, said.get("alias", "")])
    return {"usings": usings}


def _pyproject(text):
    try:
        tool = _table(tomllib.loads(text), "tool")
    except tomllib.TOMLDecodeError:
        return {"roots": []}
    setuptools = _table(tool, "setuptools")
    find = _table(_table(setuptools, "packages"), "find")
    roots = [_table(setuptools, "package-dir").get("")]
    roots += find["where"] if isinstance(find.get("where"), list) else []
    listed = _table(tool, "poetry").get("packages")
    for entry in listed if isinstance(listed, list) else ():
        roots.append(entry.get("from") if isinstance(entry, dict) else None)
    return {"roots": [root for root in roots if isinstance(root, str)]}


def _setup_cfg(text):
    roots = re.findall(r"^package_dir\s*=\s*(?:\n\s+)?=\s*(\S+)", text, re.M)
    return {"roots": roots + re.findall(r"^where\s*=\s*(\S+)", text, re.M)}


def _json(text):
    """JSON with the comments and trailing commas that tsconfig.json may have."""
    text = re.sub(
        r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/',
        lambda match: match[1] or "",
        text.lstrip("\ufeff"),
        flags=re.S,
    )
    text = re.sub(
        r'("(?:\\.|[^"\\\n])*")|,(?=\s*[}\]])', lambda match: match[1] or "", text
    )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _table(value, key):
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _string(value, key):
    found = value.get(key)
    return found if isinstance(found, str) else ""


_READERS = {
    "go.mod": _go_mod,
    "Cargo.toml": _cargo,
    "package.json": _package_json,
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
}
