"""Training rows for the adapter of SmolLM2: fill-in-the-middle, text and chat.

    python tools/smollm2_adapter.py runs/adapter_rows --tokenizer PRESET \\
        --sources runs/sdists/*.tar.gz --tokens 4000000

Python of installed packages and of permissively licensed sources, read, filtered and
cleaned of secrets as in `data build`, each text once; then cut for fill-in-the-middle
three times: files of a repository joined, so that a middle has context from other files;
pieces alone, half of them without a path; and short pieces alone. A row holds one middle of
the first kind and six of the last, and it is from middles that a model learns to fill in, so
short pieces have half of the places. PSM and SPM are half and half; most middles are
lines, rests of lines and blocks. Of a piece with a middle only the middle is a target, which
also saves most of the work of the loss. Documentation and short conversations keep text
and chat from being lost. In OUT:

    rows.npz    a `PackedBatch`: `batch = load_rows("OUT/rows.npz")`
    rows.json   how many segments, places and weights of targets each kind has

Any tokenizer will do that has `encode`, `start_token_id` and `codec.control_ids`. What the
model is scored on is refused as a source: see `HELD_OUT`.

Left out: near duplicates and the order of imports, for which there is `data build`; and
training, since `training.loop` takes a `PackedBatch` as it is.
"""

import argparse
import dataclasses
import json
import pathlib
import random

import numpy as np

from codegemma_keras import CodeGemmaChatPreprocessor, CodeGemmaTokenizer
from codegemma_keras.batches import PackedBatch, pack, plan_rows
from codegemma_keras.data.clean import dedup, filters, secrets
from codegemma_keras.data.document import Report
from codegemma_keras.data.languages import PROSE
from codegemma_keras.data.read import installed, sources
from codegemma_keras.data.rows.examples import chunk_repository
from codegemma_keras.data.rows.fim_split import FimSettings, target_weights
from codegemma_keras.tasks import small_functions

HELD_OUT = tuple(
    "networkx rich requests h5py httpx anyio tornado jinja2 tqdm pathspec".split()
)
# Their licences permit it; `installed.licence_of` tells them.
PACKAGES = ("stdlib", "jax", "scipy", "keras", "keras_hub", "numpy", "sympy")
# Of all places in the rows.
SHARES = {"joined": 0.15, "alone": 0.2, "short": 0.5, "text": 0.1, "chat": 0.05}
SHORT = 160  # tokens of the longest short piece
JOINED = FimSettings(
    rate=0.95, syntax_share=0.1, line_share=0.65, block_share=0.15, short_share=0.1
)
FIM = {
    "joined": JOINED,
    "alone": dataclasses.replace(JOINED, path_share=0.5, shortest_piece=0.2, seed=1),
    "short": dataclasses.replace(
        JOINED, rate=1.0, path_share=0.5, shortest_piece=0.3, seed=2
    ),
    "text": FimSettings(rate=0.0, path_share=0.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", default="code_gemma_tiny_py", help="a preset")
    parser.add_argument("--packages", nargs="*", default=PACKAGES, help="installed")
    parser.add_argument("--sources", nargs="*", default=[], help="sdists, folders")
    parser.add_argument("--length", type=int, default=512, help="T, places of a row")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of all rows")
    parser.add_argument(
        "--rest-weight", type=float, default=0.0, help="of what is around a middle"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = CodeGemmaTokenizer.from_preset(options.tokenizer)
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report()
    texts = read(options, report)
    segments, weights, made = [], [], {}
    for kind, share in SHARES.items():
        wanted = share * options.tokens
        if kind == "chat":
            found = chats(tokenizer, options.length, options.seed)
        else:
            found = coded(texts, kind, tokenizer, options)
        new, new_weights = until(found, wanted)
        made[kind] = {
            "segments": len(new),
            "places": sum(map(len, new)) - len(new),
            "weights": float(sum(map(np.sum, new_weights))),
        }
        segments += new
        weights += new_weights
    rows = plan_rows([len(ids) - 1 for ids in segments], options.length)
    random.Random(options.seed).shuffle(rows)
    batch = pack(segments, options.length, weights=weights, rows=rows)
    np.savez(
        options.out / "rows.npz",
        **batch.inputs,
        targets=batch.targets,
        weights=batch.weights,
    )
    about = {
        "tokenizer": options.tokenizer,
        "rows": batch.rows,
        "length": options.length,
        "kinds": made,
        "fim": {kind: dataclasses.asdict(fim) for kind, fim in FIM.items()},
        "packages": {p: installed.licence_of(p) for p in options.packages},
        "sources": [pathlib.Path(source).name for source in options.sources],
        "report": report.to_json(),
    }
    (options.out / "rows.json").write_text(json.dumps(about, indent=1) + "\n")
    print(json.dumps(made, indent=1))


def load_rows(file) -> PackedBatch:
    """The rows that were made."""
    arrays = dict(np.load(file))
    targets, weights = arrays.pop("targets"), arrays.pop("weights")
    return PackedBatch(arrays, targets, weights)


def read(options, report) -> dict[str, list]:
    """`{language: documents}` of all sources, cleaned, each text once."""
    if refused := [s for s in (*options.packages, *options.sources) if held_out(s)]:
        raise ValueError(f"{refused} are for scoring; leave them out.")
    found = list(installed.python_files(options.packages, report))
    languages = ("python", *PROSE)
    for source in options.sources:
        documents = sources.read_source(source, report, languages=languages)
        found += filters.filter_documents(documents, report, languages=languages)
    seen, texts = set(), {"python": [], "prose": []}
    for document in secrets.clean_documents(found, report, mode="replace"):
        key = dedup.exact_key(document.text)
        if key not in seen:
            seen.add(key)
            kind = "python" if document.language == "python" else "prose"
            texts[kind].append(document)
    return texts


def held_out(source) -> bool:
    """Whether a package or an archive is one of those the model is scored on."""
    name = pathlib.Path(source).name.lower()
    return any(name == held or name.startswith(f"{held}-") for held in HELD_OUT)


def coded(texts, kind, tokenizer, options):
    """`(ids, weights)` of segments of files, the repositories in random order."""
    settings = dataclasses.replace(FIM[kind], seed=FIM[kind].seed + options.seed)
    controls = tokenizer.codec.control_ids
    # Without joining, a document is a repository of its own.
    groups = {}
    for number, document in enumerate(texts["prose" if kind == "text" else "python"]):
        key = folder_of(document) if kind == "joined" else number
        groups.setdefault(key, []).append(document)
    groups = list(groups.values())
    random.Random(options.seed).shuffle(groups)
    length = min(SHORT, options.length) if kind == "short" else options.length
    for documents in groups:
        chunks = chunk_repository(
            documents, tokenizer, settings, length, join=kind == "joined"
        )
        for chunk in chunks:
            ids = chunk.token_ids
            yield ids, target_weights(ids, controls, rest_weight=options.rest_weight)


def folder_of(document):
    """Files of one folder are each other's context."""
    return document.repo, document.path.rpartition("/")[0]


def chats(tokenizer, length, seed):
    """`(ids, weights)` of conversations about small functions, answers only."""
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, length)
    for task in small_functions.tasks(3_900, seed):
        yield preprocessor.row(task.messages(), length)


def until(found, places):
    """Segments and weights, as many as fill the places, or all."""
    segments, weights, total = [], [], 0
    for ids, weight in found:
        if total >= places:
            break
        if ids:
            segments.append(ids)
            weights.append(weight)
            total += len(ids) - 1
    return segments, weights


if __name__ == "__main__":
    main()
