"""Our import edges in every language, against resolvers written apart from ours.

    python benchmarks/data_edges.py FOLDER [--language go]

Fetches pinned packages into FOLDER by the ordinary clients (`pip download`, `npm pack`,
`apt-get source` with an index of its own in FOLDER), unpacks them, and compares edges. Of
Debian's packages that is the upstream source, without Debian's patches. Packages in one
set of braces lie side by side as one repository. Needs node, npm and Debian's apt-get.

The other resolvers are in _edges.py, _edges_rust.py and _edges.js, Python's is in
data_graph.py.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys

import _edges
import _edges_rust
import data_graph
from _data import RESULTS, record

from codegemma_keras.data.languages import language_of
from codegemma_keras.data.order import imports, order

TYPESCRIPT = "typescript@5.9.3"
DEBIAN = "deb-src http://deb.debian.org/debian bookworm main\n"
MAX_BYTES = 1_000_000
PYTHON = (".py",)
JAVASCRIPT = (".js", ".jsx", ".mjs", ".cjs")
TYPES = (".ts", ".tsx", ".mts", ".cts")
CPP = (".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh", ".hxx", ".inl")
# language: (endings of importers, of files they may import, repositories)
CASES = {
    "python": (
        PYTHON,
        PYTHON,
        [
            {"pypi:docutils==0.22.2"},
            {"pypi:scrapy==2.13.3"},
        ],
    ),
    "python monorepo": (
        PYTHON,
        PYTHON,
        [
            {
                "pypi:opentelemetry-api==1.38.0",
                "pypi:opentelemetry-sdk==1.38.0",
                "pypi:opentelemetry-semantic-conventions==0.59b0",
            }
        ],
    ),
    "javascript": (
        JAVASCRIPT,
        JAVASCRIPT + TYPES,
        [{"npm:express@5.3.0"}, {"npm:preact@11.2.0"}, {"npm:axios@1.21.1"}],
    ),
    "typescript": (
        TYPES,
        JAVASCRIPT + TYPES,
        [
            {"npm:zod@4.6.7"},
            {"npm:rxjs@7.8.2"},
            {"npm:@trpc/server@11.25.2", "npm:@trpc/client@11.25.2"},
        ],
    ),
    "java": (
        (".java",),
        (".java", ".kt"),
        [
            {"debian:libcommons-io-java=2.11.0-2"},
            {"debian:libcommons-lang3-java=3.12.0-2+deb12u1"},
            {"debian:libokhttp-java=3.13.1-3"},
        ],
    ),
    "kotlin": (
        (".kt", ".kts"),
        (".java", ".kt", ".kts"),
        [
            {"debian:kotlinx-coroutines=1.0.1-2"},
            {"npm:react-native@0.88.1"},
            {"npm:expo-modules-core@58.0.7"},
            {"npm:@rnmapbox/maps@10.3.5"},
        ],
    ),
    "go": (
        (".go",),
        (".go",),
        [
            {"debian:golang-github-spf13-cobra=1.6.1-1"},
            {"debian:golang-github-prometheus-common=0.39.0-2"},
            {"debian:hugo=0.111.3-1"},
        ],
    ),
    "rust": (
        (".rs",),
        (".rs",),
        [
            {"debian:ripgrep=13.0.0-4"},
            {"debian:rust-clap=4.0.32-1"},
            {"debian:rust-serde=1.0.152-2"},
            {"debian:python-cryptography=38.0.4-3+deb12u1"},
            {"debian:rust-bat=0.22.1-4"},
        ],
    ),
    "c, c++": (
        CPP,
        CPP,
        [
            {"debian:leveldb=1.23-4"},
            {"debian:re2=20220601+dfsg-1"},
            {"debian:libuv1=1.44.2-1+deb12u1"},
        ],
    ),
    "c#": (
        (".cs",),
        (".cs",),
        [
            {"debian:newtonsoft-json=6.0.8+dfsg-1.1"},
            {"debian:keepass2=2.47+dfsg-2"},
            {"debian:dbus-sharp=0.8.1-2.1"},
            {"npm:react-native-windows@0.84.0"},
        ],
    ),
}
RULES = {
    "java": _edges.jvm_edges,
    "kotlin": _edges.jvm_edges,
    "go": _edges.go_edges,
    "rust": _edges_rust.rust_edges,
    "c, c++": _edges.cpp_edges,
    "c#": _edges.csharp_edges,
}


def call(*command, cwd=None):
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def fetch(package, store):
    """The unpacked folder of one package."""
    registry, name = package.split(":", 1)
    folder = store / package.replace("/", "+").replace(":", "+")
    if folder.exists():
        return folder
    work = folder.with_suffix(".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    if registry == "pypi":
        sdist = ("--no-deps", "--no-binary", ":all:")
        call(sys.executable, "-m", "pip", "download", "-q", *sdist, name, cwd=work)
    elif registry == "npm":
        call("npm", "pack", "--silent", name, cwd=work)
    else:
        options = (*debian_index(store), "source", "-qq", "--download-only")
        call("apt-get", *options, "--tar-only", name, cwd=work)
    for archive in set(work.glob("*")) - set(work.glob("*.dsc")):
        shutil.unpack_archive(archive, work / "unpacked", filter="data")
    (work / "unpacked").rename(folder)
    shutil.rmtree(work)
    return folder


def debian_index(store):
    """Options that give apt-get lists of its own, with source packages."""
    apt = store / "apt"
    options = [
        f"-oDir::Etc::SourceList={apt}/sources.list",
        "-oDir::Etc::SourceParts=/dev/null",
        f"-oDir::State::Lists={apt}/lists",
        f"-oDir::Cache={apt}/cache",
        "-oAPT::Sandbox::User=root",
    ]
    if not apt.exists():
        for folder in ("lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True)
        (apt / "sources.list").write_text(DEBIAN)
        call("apt-get", *options, "-qq", "update")
    return options


def repository(packages, store):
    """One folder with all packages of a set side by side."""
    folders = [fetch(package, store) for package in sorted(packages)]
    if len(folders) == 1:
        return folders[0]
    joined = store / ("joined+" + folders[0].name)
    if not joined.exists():
        for folder in folders:
            shutil.copytree(folder, joined / folder.name, symlinks=True)
    return joined


def read_tree(root):
    texts = {}
    for path in sorted(root.rglob("*")):
        if (
            path.is_file()
            and not path.is_symlink()
            and path.stat().st_size <= MAX_BYTES
        ):
            name = path.relative_to(root).as_posix()
            if imports.tells_order(name, language_of(name)):
                texts[name] = path.read_bytes().decode("utf-8-sig", "replace")
    return texts


def expected(language, root, texts, importers, imported):
    """The edges of the other resolver."""
    files = {p: t for p, t in texts.items() if p.endswith(imported)}
    if language.startswith("python"):
        return data_graph.expected_edges(root, set(files))
    if language in ("javascript", "typescript"):
        typescript = root.parent / "node" / "node_modules" / "typescript"
        if not typescript.exists():
            call(
                "npm",
                "install",
                "--silent",
                "--prefix",
                root.parent / "node",
                TYPESCRIPT,
            )
        script = pathlib.Path(__file__).with_name("_edges.js")
        found = subprocess.run(
            ["node", script, typescript, root],
            input="\n".join(files),
            text=True,
            check=True,
            capture_output=True,
        )
        edges = {tuple(line.split("\t")) for line in found.stdout.splitlines()}
    else:
        edges = RULES[language](files, texts.get, texts)
    return {(a, b) for a, b in edges if a.endswith(importers) and a != b}


def measure(language, packages, store, show):
    importers, imported, _ = CASES[language]
    root = repository(packages, store).resolve()
    texts = read_tree(root)
    facts = [imports.read_facts(t, p, language_of(p)) for p, t in texts.items()]
    edges = {(e.importer, e.imported) for e in order.find_edges(facts)}
    ours = {(a, b) for a, b in edges if a.endswith(importers) and b.endswith(imported)}
    theirs = expected(language, root, texts, importers, imported)
    for name, only in (("ours", ours - theirs), ("theirs", theirs - ours)):
        for edge in sorted(only)[:: max(1, len(only) // max(1, show))][:show]:
            print(f"  only {name}:", *edge)
    return {
        "files": sum(p.endswith(importers) for p in texts),
        "edges": len(ours),
        "expected": len(theirs),
        "both": len(ours & theirs),
    }


def rates(counts):
    return {
        "precision": round(counts["both"] / max(1, counts["edges"]), 4),
        "recall": round(counts["both"] / max(1, counts["expected"]), 4),
        **counts,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--language", choices=CASES, action="append")
    parser.add_argument("--show", type=int, default=4, help="differences to print")
    args = parser.parse_args()
    sys.dont_write_bytecode = True
    args.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for language in args.language or CASES:
        found = {}
        for packages in CASES[language][2]:
            name = " + ".join(sorted(packages))
            print(language, name)
            found[name] = measure(language, packages, args.folder, args.show)
            print(" ", rates(found[name]), flush=True)
        keys = ("files", "edges", "expected", "both")
        total = {key: sum(counts[key] for counts in found.values()) for key in keys}
        of_each = {name: rates(counts) for name, counts in found.items()}
        results[language] = {**rates(total), "repositories": of_each}
        # Languages that were not measured this time keep their last figures.
        last = RESULTS / "data_edges.json"
        known = json.loads(last.read_text()) if last.exists() else {}
        kept = {name: known[name] for name in CASES if name in known}
        record("data_edges", {**kept, **results})


if __name__ == "__main__":
    main()
