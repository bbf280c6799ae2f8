"""Texts for the adapter of SmolLM2: permissive Python and its documentation.

    python tools/smollm2_texts.py runs/texts --sources runs/sdists/*.tar.gz

The standard library and each source archive are read, filtered, decontaminated and cleaned
of secrets by the steps of `data build`. Of each archive, whole folders are kept until there
are `--most` characters, in the order of a hash of their names, so that a few large projects
are not most of the data. A text that occurs twice is kept once. Left out are files under a
licence that is not permissive or not known, tests, and all of the packages that the model
is scored on, with their copies in other projects: `HELD_OUT`.

`OUT/texts.jsonl.xz` has a `Document` on each line, `OUT/texts.json` what was dropped and
why. `smollm2_adapter.py --texts` makes rows of them.

Left out: near duplicates and the order of imports, for which there is `data build`.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import importlib.resources
import importlib.util
import json
import lzma
import pathlib
import re

from codegemma_keras import bars
from codegemma_keras.data.clean import decontaminate, dedup, filters, headers, secrets
from codegemma_keras.data.document import Document, Report
from codegemma_keras.data.read import installed, sources

# Never trained on; the benchmarks of the adapter ask about them.
HELD_OUT = tuple(
    "networkx rich requests h5py httpx anyio tornado jinja2 tqdm pathspec".split()
)
BENCHMARKS = ("HumanEval.jsonl.gz", "gsm8k_test.jsonl.gz")
LANGUAGES = ("python", "markdown", "rst")
_TEST = re.compile(
    r"(?:^|/)(?:tests?|testing)/|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$"
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--sources", nargs="+", required=True, help="sdists, folders")
    parser.add_argument(
        "--most", type=int, default=3_000_000, help="characters of each"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if refused := [source for source in options.sources if held_out(source)]:
        raise ValueError(f"{refused} are for scoring; leave them out.")
    options.out.mkdir(parents=True, exist_ok=True)
    report, seen, sizes = Report(), keys_of_held_out(), {}
    read = functools.partial(texts_of, most=options.most)
    target = options.out / "texts.jsonl.xz"
    with (
        concurrent.futures.ProcessPoolExecutor(options.workers) as pool,
        lzma.open(target, "wt", encoding="utf-8", preset=6) as file,
        bars.shown() as progress,
    ):
        found = pool.map(read, [installed.STDLIB, *options.sources])
        for number, (lines, counts) in enumerate(found):
            progress("reading sources", number, len(options.sources))
            report.merge(counts)
            for line in lines:
                document = Document.from_json(line)
                key = dedup.exact_key(document.text)
                if key in seen:
                    report.drop("dedup", "exact", document)
                    continue
                seen.add(key)
                file.write(line + "\n")
                kept = sizes.setdefault(document.repo, {"files": 0, "characters": 0})
                kept["files"] += 1
                kept["characters"] += len(document.text)
    about = {"most": options.most, "sources": sizes, "report": report.to_json()}
    (options.out / "texts.json").write_text(json.dumps(about, indent=1) + "\n")
    total = sum(kept["characters"] for kept in sizes.values())
    print(f"{total / 1e6:.0f} million characters, {target.stat().st_size / 1e6:.0f} MB")


def texts_of(source, most):
    """`(documents as JSON, report)` of one source."""
    report = Report()
    if source == installed.STDLIB:
        found = installed.python_files([source], report)
    else:
        found = sources.read_source(source, report, languages=LANGUAGES)
        found = filters.filter_documents(found, report, languages=LANGUAGES)
    found = list(ours(found, report))
    found = enough(found, most)
    found = decontaminate.decontaminate_documents(found, report, benchmarks())
    found = secrets.clean_documents(found, report, mode="replace")
    lines = [
        document.replace(text=headers.without_licence(document.text)).to_json()
        for document in found
    ]
    return lines, report


def ours(documents, report):
    """What may be trained on: no test, and no copy of a package that is held out."""
    for document in documents:
        if _TEST.search(document.path):
            report.drop("texts", "test", document)
        elif set(HELD_OUT).intersection(re.split(r"[/.]", document.path.lower())):
            report.drop("texts", "held out", document)
        else:
            yield document


def enough(documents, most):
    """Whole folders until there are `most` characters, files in order."""
    folders = {}
    for document in documents:
        folders.setdefault(folder_of(document), []).append(document)
    kept = []
    for folder in sorted(
        folders, key=lambda f: hashlib.sha256(repr(f).encode()).digest()
    ):
        kept += sorted(folders[folder], key=lambda document: document.path)
        most -= sum(len(document.text) for document in folders[folder])
        if most <= 0:
            break
    return kept


def folder_of(document):
    """Files of one folder are each other's context."""
    return document.repo, document.path.rpartition("/")[0]


@functools.cache
def benchmarks():
    """The tasks that no text may hold."""
    folder = importlib.resources.files("codegemma_keras.evals") / "benchmarks"
    tasks = [
        task for name in BENCHMARKS for task in decontaminate.read_tasks(folder / name)
    ]
    return decontaminate.Index(tasks)


def keys_of_held_out():
    """Keys of the files of those packages that are installed."""
    keys = set()
    for package in HELD_OUT:
        if spec := importlib.util.find_spec(package):
            root = pathlib.Path(spec.origin).parent
            keys.update(
                dedup.exact_key(p.read_text("utf-8")) for p in root.rglob("*.py")
            )
    return keys


def held_out(source) -> bool:
    """Whether a package or an archive is one of those the model is scored on."""
    name = pathlib.Path(source).name.lower()
    return any(name == held or name.startswith(f"{held}-") for held in HELD_OUT)


if __name__ == "__main__":
    main()
