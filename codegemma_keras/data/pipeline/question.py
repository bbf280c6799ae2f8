"""What a build was asked: a finished folder answers the same question only.

The question is the settings, the contents of the tokenizer and of the benchmark files, and
the sources by path, sizes and times. It is written when a build begins, so a source that
changes while a build is interrupted is noticed, too.
"""

import collections
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence

from codegemma_keras.data.pipeline.settings import Settings, is_build_file
from codegemma_keras.data.read import sources
from codegemma_keras.tokenizer.vocabularies import with_sentinel_names

# Of a preset's folder in KerasHub's format; `presets.VOCABULARY`, without its Keras.
VOCABULARY = "assets/tokenizer/vocabulary.spm"
FORMAT = 2
# What makes two builds different; date, command and version do not.
KEYS = ("format", "settings", "tokenizer", "benchmarks", "sources")


@dataclasses.dataclass(frozen=True)
class Unit:
    """One source.

    Attributes:
        name: of its repository; no two sources of a build share one.
        path: absolute.
        key: name of its folders in the work of a build.
    """

    name: str
    path: str
    key: str


def find_units(paths: Sequence[str | os.PathLike]) -> list[Unit]:
    """The sources by name. Those of one name are numbered in the order of their paths.

    Raises:
        FileNotFoundError: a source is not there.
        ValueError: a source is of no known kind, or there is none.
    """
    found = collections.defaultdict(list)
    for path in dict.fromkeys(os.path.realpath(os.fsdecode(p)) for p in paths):
        sources.check_source(path)
        found[sources.source_name(path)].append(path)
    if not found:
        raise ValueError("No source was given. Name folders, archives or jsonl files.")
    named = {name: sorted(same)[0] for name, same in found.items()}
    for name, same in sorted(found.items()):
        number = 2
        for path in sorted(same)[1:]:
            while f"{name}~{number}" in named:
                number += 1
            named[f"{name}~{number}"] = path
    return [
        Unit(name, path, f"{number:05d}")
        for number, (name, path) in enumerate(sorted(named.items()))
    ]


def ask(units: Sequence[Unit], settings: Settings, proto: bytes) -> dict:
    """The question, with date, command and version for the report."""
    from codegemma_keras import __version__

    return {
        "format": FORMAT,
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "tokenizer": hashlib.blake2b(proto, digest_size=16).hexdigest(),
        "benchmarks": {os.fspath(p): _hash(p) for p in settings.benchmarks},
        "sources": {unit.name: _source(unit, settings) for unit in units},
        "version": __version__,
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "date": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
    }


def _source(unit, settings):
    languages = settings.languages_read()
    found = sources.fingerprint(unit.path, languages=languages, also=is_build_file)
    # JSON holds no names that are not UTF-8.
    return {"path": ascii(unit.path)[1:-1], **found}


def _hash(path):
    data = pathlib.Path(path).read_bytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def differences(old: dict, new: dict) -> list[str]:
    """What differs between two questions, in words; empty if they are the same."""
    if old.get("format") != new["format"]:
        return ["it was made by another version of this program"]
    said = []
    for name in sorted({*old["settings"], *new["settings"]}):
        a, b = old["settings"].get(name), new["settings"].get(name)
        if a != b and isinstance(a, dict) and isinstance(b, dict):
            for key in sorted({*a, *b}):
                if a.get(key) != b.get(key):
                    said.append(f"{name}.{key} is {a.get(key)!r}, not {b.get(key)!r}")
        elif a != b:
            said.append(f"{name} is {_short(a)}, not {_short(b)}")
    if old["tokenizer"] != new["tokenizer"]:
        said.append("the tokenizer has other contents")
    for name, value in sorted(new["benchmarks"].items()):
        if old["benchmarks"].get(name, value) != value:
            said.append(f"{name} has other contents")
    return [*said, *_other_sources(old["sources"], new["sources"])]


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _other_sources(old, new):
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if a is None:
            yield f"source {name} ({b['path']}) is not in it"
        elif b is None:
            yield f"it has the source {name} ({a['path']})"
        elif a["path"] != b["path"]:
            yield f"its source {name} is {a['path']}, not {b['path']}"
        elif a != b:
            yield (
                f"source {name} has changed since ({a['files']} files of {a['bytes']:,} "
                f"bytes then, {b['files']} of {b['bytes']:,} now)"
            )


def read_proto(tokenizer) -> bytes:
    """The SentencePiece model of a tokenizer, a file or a preset.

    A file, a preset's folder and the embedded preset are read as they are; only a preset
    that must be downloaded loads Keras.
    """
    proto = getattr(tokenizer, "proto", None)
    if proto is None:
        path = pathlib.Path(tokenizer)
        embedded = pathlib.Path(__file__).parents[2] / "assets" / path
        for file in (embedded / VOCABULARY, path, path / VOCABULARY):
            if file.is_file():
                return with_sentinel_names(file.read_bytes())
        from codegemma_keras.tokenizer.tokenizer import CodeGemmaTokenizer

        proto = CodeGemmaTokenizer.from_preset(os.fspath(tokenizer)).proto
    if isinstance(proto, str):
        return pathlib.Path(proto).read_bytes()
    return bytes(proto)
