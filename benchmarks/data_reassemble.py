"""100,000 documents through a whole build, and back from their tokens byte for byte.

    python benchmarks/data_reassemble.py [--documents 100000] [--workers 2]

Documents are runs of lines of installed files in every language that has a grammar, some
with CRLF, some with text that reads like control tokens. Filters may drop some, secrets
and near duplicates stay. Every document kept must come back from the tokens, every
segment must be in the rows as often as it was made, and the shares of FIM, SPM and syntax
splits must lie within three standard deviations of what was asked for.
"""

import argparse
import collections
import hashlib
import json
import math
import pathlib
import random
import sys
import tempfile
import time

import numpy as np
from _data import package_folder, record, stdlib_folder

from codegemma_keras.data import languages
from codegemma_keras.data.document import Document
from codegemma_keras.data.pipeline import build as pipeline
from codegemma_keras.data.pipeline import question, stages
from codegemma_keras.data.pipeline.folder import WORK
from codegemma_keras.data.pipeline.settings import Settings
from codegemma_keras.data.rows import examples, storage
from codegemma_keras.data.rows.fim_split import FimSettings
from codegemma_keras.tokenizer.codec import PlainCodec

UNITS = 8
PER_REPOSITORY = 25
ODD = "\nx = '<|fim_prefix|><|file_separator|> \u2581 <eos> \u00e9 \U0001f600\t'  \n"


def installed_texts():
    """`(ending, text)` of installed source files, those that are not Python first."""
    site = package_folder("numpy").parent
    found = collections.defaultdict(list)
    for root in (site, stdlib_folder()):
        for path in sorted(root.rglob("*.*")):
            if root != site and "site-packages" in path.parts:
                continue
            language = languages.LANGUAGES.get(languages.language_of(path.name))
            if language and language.grammar and path.stat().st_size < 200_000:
                found[language.name == "python"].append(path)
    for path in (*found[False], *found[True]):
        try:
            yield path.suffix, path.read_bytes().decode()
        except UnicodeDecodeError:
            continue


def documents(number, rng):
    """Runs of 8 to 40 lines; a quarter at most are not Python."""
    made = other = 0
    for ending, text in installed_texts():
        if ending != ".py" and other >= number // 4:
            continue
        lines = text.split("\n")
        start = 0
        while start < len(lines):
            size = rng.randint(8, 40)
            piece = "\n".join(lines[start : start + size])
            start += size
            if len(piece) < 40:
                continue
            if made % 10 == 0:
                piece = piece.replace("\r", "").replace("\n", "\r\n")
            if made % 50 == 1:
                piece += ODD
            yield f"{made:06d}{ending}", piece
            made, other = made + 1, other + (ending != ".py")
            if made == number:
                return


def write_sources(folder, number, rng):
    """`UNITS` jsonl files of small repositories."""
    paths = [folder / f"unit{i}.jsonl" for i in range(UNITS)]
    files = [path.open("w", encoding="utf-8") for path in paths]
    for index, (path, text) in enumerate(documents(number, rng)):
        repository = index // PER_REPOSITORY
        row = {"text": text, "path": path, "repo": f"r{repository:05d}"}
        files[repository % UNITS].write(json.dumps(row) + "\n")
    for file in files:
        file.close()
    return paths


def segment_hash(ids):
    return hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=12).digest()


def compare_unit(work, unit, codec, dropped, made):
    """`(documents, bytes, names that differ)`; adds to `made` the hash of each segment."""
    texts = collections.defaultdict(str)
    tokens = np.fromfile(work / "3-tokens" / unit / "tokens.bin", "<i4")
    start = 0
    for chunk in stages.read_lines(work / "3-tokens" / unit / "chunks.jsonl"):
        ids = tokens[start : start + chunk["length"]]
        start += chunk["length"]
        made[segment_hash(ids)] += 1
        for path, text in examples.read_segment(codec.decode_parts(ids.tolist())):
            texts[path] += text
    number = size = 0
    differ = []
    with open(work / "1-read" / unit / "documents.jsonl", "rb") as file:
        for row, line in enumerate(file):
            if str(row) in dropped:
                continue
            document = Document.from_json(line)
            data = document.text.encode()
            number, size = number + 1, size + len(data)
            if texts.pop(document.path, "").encode() != data:
                differ.append(document.path)
    return number, size, differ + list(texts)


def read_back(out, made):
    """Segments of the rows that were not made, or not as often."""
    rows, stored = storage.Rows(out), collections.Counter()
    for index in range(len(rows)):
        for segment in rows[index]:
            stored[segment_hash(segment)] += 1
    return sum(((made - stored) + (stored - made)).values())


def deviations(kinds):
    """How many standard deviations each share is from what was asked for."""

    def z(found, total, share):
        sigma = math.sqrt(total * share * (1 - share))
        return round((found - total * share) / sigma, 2)

    plan, pieces = FimSettings(), sum(kinds.values())
    fims = pieces - kinds["plain"]
    spm = sum(n for kind, n in kinds.items() if kind.startswith("spm"))
    syntax = sum(n for kind, n in kinds.items() if kind.endswith("syntax"))
    return {
        "fim": z(fims, pieces, plan.rate),
        "spm": z(spm, fims, plan.spm_share),
        "syntax": z(syntax, fims, plan.syntax_share),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tokenizer", default="code_gemma_tiny_py")
    args = parser.parse_args()
    plan = Settings(length=2048, licences=None, secrets="keep", threshold=0.0)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        made_from = write_sources(folder, args.documents, random.Random(0))
        out = folder / "out"
        report = pipeline.build(
            made_from,
            out,
            args.tokenizer,
            plan,
            workers=args.workers,
            keep_work=True,
        )
        codec = PlainCodec((out / "tokenizer.model").read_bytes())
        verdicts = json.loads((out / WORK / "2-dedup/all/verdicts.json").read_text())
        number = size = 0
        differ, made = [], collections.Counter()
        for unit in (u.key for u in question.find_units(made_from)):
            dropped = verdicts.get(unit, {})
            n, b, d = compare_unit(out / WORK, unit, codec, dropped, made)
            number, size, differ = number + n, size + b, differ + d
        lost = read_back(out, made)
    kinds = {r: n for (step, r), (n, _) in report.counts.items() if step == "fim"}
    kinds = collections.Counter(kinds)
    result = {
        "documents_in": report.number("read", "in"),
        "documents_compared": number,
        "bytes_compared": size,
        "documents_that_differ": len(differ),
        "for_example": differ[:5],
        "segments": sum(made.values()),
        "segments_not_in_the_rows_as_made": lost,
        "languages": {
            r: n for (s, r), (n, _) in sorted(report.counts.items()) if s == "language"
        },
        "pieces": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "standard_deviations_from_what_was_asked": deviations(kinds),
        "seconds": round(time.perf_counter() - start, 1),
    }
    record("data_reassemble", result)
    off = [z for z in result["standard_deviations_from_what_was_asked"].values()]
    return int(bool(differ or lost or max(map(abs, off)) > 3))


if __name__ == "__main__":
    sys.exit(main())
