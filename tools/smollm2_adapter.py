"""Training rows for the adapter of SmolLM2: fill-in-the-middle, code, text and chat.

    python tools/smollm2_texts.py runs/texts --sources runs/sdists/*.tar.gz
    python tools/smollm2_adapter.py runs/adapter_rows --texts runs/texts/texts.jsonl.xz \\
        --chats gsm8k_train.jsonl.gz --tokens 100000000 --workers 16

The texts are cut for fill-in-the-middle three times: files of a folder joined, so that a
middle has context from other files; pieces alone, half of them without a path; and short
pieces alone, of which a row holds several. PSM and SPM are half and half; most middles are
lines, rests of lines and blocks. What is around a middle counts `--rest-weight` in the loss,
since it is code, too. Other places hold code as it is read, documentation, and
conversations, so that none of them is lost: functions asked for by what their docstring
says, small functions made by rule, and the conversations of `--chats`.

Each worker cuts the documents of its own folders, `--passes` times and each time otherwise.
In OUT:

    rows_PASS_WORKER.npz    rows; `batch = load_rows(OUT)` has those of all files
    rows_PASS_WORKER.json   how many segments, places and weights of targets each kind has

A file appears when it is whole, so training may begin with the first
(`smollm2_train.py --follow`). Any tokenizer will do that has `encode`, `start_token_id`
and `codec.control_ids`.

Left out: near duplicates and the order of imports, for which there is `data build`.
"""

import argparse
import ast
import dataclasses
import gzip
import hashlib
import json
import lzma
import multiprocessing
import os
import pathlib
import random
import re
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from smollm2_texts import folder_of

from codegemma_keras import CodeGemmaChatPreprocessor, CodeGemmaTokenizer
from codegemma_keras.batches import PackedBatch, pack, plan_rows
from codegemma_keras.data.document import Document
from codegemma_keras.data.languages import PROSE
from codegemma_keras.data.rows.examples import chunk_repository
from codegemma_keras.data.rows.fim_split import FimSettings, target_weights
from codegemma_keras.tasks import instruct, small_functions

# Of all places in the rows.
SHARES = {
    "joined": 0.2,
    "alone": 0.3,
    "short": 0.25,
    "code": 0.1,
    "text": 0.05,
    "functions": 0.05,
    "small": 0.01,
    "chats": 0.04,
}
LENGTHS = {"joined": 1024, "alone": 512, "short": 160, "code": 512, "text": 512}
JOINED = FimSettings(
    rate=0.95, syntax_share=0.1, line_share=0.65, block_share=0.15, short_share=0.1
)
PLAIN = FimSettings(rate=0.0, path_share=0.3)
FIM = {
    "joined": JOINED,
    "alone": dataclasses.replace(JOINED, path_share=0.5, shortest_piece=0.2),
    "short": dataclasses.replace(
        JOINED, rate=1.0, path_share=0.5, shortest_piece=0.3, seed=1
    ),
    "code": dataclasses.replace(PLAIN, seed=2),
    "text": dataclasses.replace(PLAIN, path_share=0.0),
}
ASKED = (
    "Write a Python function `{signature}`. {description}",
    "I need a function `{signature}` in Python. {description}",
    "{description} Write it in Python as `{signature}`.",
    "Implement `{signature}` in Python: {description}",
)
LONGEST = 1_500  # characters of a function that is an answer


def main():
    options = parsed()
    options.out.mkdir(parents=True, exist_ok=True)
    processes = [
        multiprocessing.get_context("spawn").Process(
            target=work, args=(options, number)
        )
        for number in range(options.workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if failed := sum(process.exitcode != 0 for process in processes):
        raise SystemExit(f"{failed} of {options.workers} workers failed.")


def parsed(arguments=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--texts", nargs="+", required=True, help="of smollm2_texts.py")
    parser.add_argument(
        "--chats", nargs="*", default=[], help="jsonl: messages or GSM8K"
    )
    parser.add_argument("--tokenizer", default="smollm2_135m_code", help="a preset")
    parser.add_argument("--length", type=int, default=1024, help="T, places of a row")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of all rows")
    parser.add_argument(
        "--rest-weight", type=float, default=0.25, help="of what is around a middle"
    )
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def work(options, number):
    """All passes of one worker."""
    tokenizer = CodeGemmaTokenizer.from_preset(options.tokenizer)
    texts = read(options.texts, number, options.workers)
    chats = [chat for file in options.chats for chat in read_chats(file)]
    places = options.tokens / options.passes / options.workers
    for turn in range(options.passes):
        seed = options.seed + turn
        rng = random.Random(f"{seed} {number}")
        batch, made = rows_of(texts, chats, tokenizer, places, options, rng, seed)
        target = options.out / f"rows_{turn:02}_{number:02}.npz"
        unfinished = target.with_suffix(".tmp")
        with open(unfinished, "wb") as file:
            np.savez(file, **compact(batch))
        target.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")
        unfinished.rename(target)


def rows_of(texts, chats, tokenizer, places, options, rng, seed):
    """`(PackedBatch, what each kind has)` of about so many places."""
    segments, weights, made = [], [], {}
    for kind, share in SHARES.items():
        if kind in FIM:
            found = coded(texts, kind, tokenizer, options, rng, seed)
        else:
            conversations = CONVERSATIONS[kind](texts, chats, rng)
            found = talked(conversations, tokenizer, options.length)
        new, new_weights = until(found, share * places)
        made[kind] = {
            "segments": len(new),
            "places": sum(map(len, new)) - len(new),
            "weights": float(sum(map(np.sum, new_weights))),
        }
        segments += new
        weights += new_weights
    rows = plan_rows([len(ids) - 1 for ids in segments], options.length)
    rng.shuffle(rows)
    return pack(segments, options.length, weights=weights, rows=rows), made


# --- Files --------------------------------------------------------------------------


def read(files, number, count) -> dict[str, list]:
    """`{"python": documents, "prose": documents}` of the worker's own folders."""
    texts = {"python": [], "prose": []}
    for name in files:
        with lzma.open(name, "rt", encoding="utf-8") as file:
            for line in file:
                document = Document.from_json(line)
                key = repr(folder_of(document)).encode()
                if int.from_bytes(hashlib.sha256(key).digest()[:8]) % count == number:
                    prose = document.language in PROSE
                    texts["prose" if prose else "python"].append(document)
    return texts


def read_chats(name):
    """Lists of messages: of rows with `messages`, or of GSM8K's questions and answers."""
    opener = gzip.open if str(name).endswith(".gz") else open
    with opener(name, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            if "messages" in row:
                yield row["messages"]
                continue
            # Without the calculator's part; the last line holds the number alone.
            answer = re.sub("<<.*?>>", "", row["answer"]).partition("\n####")[0]
            yield conversation(row["question"], answer)


def compact(batch) -> dict[str, np.ndarray]:
    """What `load_rows` needs, in few bytes."""
    inputs = batch.inputs
    if max(int(inputs["token_ids"].max()), int(batch.targets.max())) > 65_535:
        raise ValueError("Tokens above 65,535 do not fit into the files of rows.")
    return {
        "token_ids": inputs["token_ids"].astype("uint16"),
        "positions": inputs["positions"].astype("uint16"),
        "segment_ids": inputs["segment_ids"].astype("uint16"),
        "targets": batch.targets.astype("uint16"),
        "weights": batch.weights.astype("float16"),
    }


def row_files(folder) -> list[pathlib.Path]:
    """The finished files, those of the first pass first."""
    return sorted(pathlib.Path(folder).glob("rows_*.npz"))


def load_rows(files) -> PackedBatch:
    """The rows of some files, in their order."""
    loaded = [dict(np.load(file)) for file in files]
    if not loaded:
        raise ValueError("No file of rows was found. Run smollm2_adapter.py first.")
    arrays = {name: np.concatenate([d[name] for d in loaded]) for name in loaded[0]}
    weights = arrays.pop("weights").astype("float32")
    arrays = {name: values.astype("int32") for name, values in arrays.items()}
    targets = arrays.pop("targets")
    arrays["padding_mask"] = (arrays["segment_ids"] > 0).astype("int32")
    return PackedBatch(arrays, targets, weights)


# --- Segments -----------------------------------------------------------------------


def coded(texts, kind, tokenizer, options, rng, seed):
    """`(ids, weights)` of segments of files, the folders in random order."""
    settings = dataclasses.replace(FIM[kind], seed=FIM[kind].seed + 10 * seed)
    controls = tokenizer.codec.control_ids
    # Without joining, a document is a repository of its own.
    groups = {}
    for number, document in enumerate(texts["prose" if kind == "text" else "python"]):
        key = folder_of(document) if kind == "joined" else number
        groups.setdefault(key, []).append(document)
    groups = list(groups.values())
    rng.shuffle(groups)
    length = min(LENGTHS[kind], options.length)
    for documents in groups:
        chunks = chunk_repository(
            documents, tokenizer, settings, length, join=kind == "joined"
        )
        for chunk in chunks:
            ids = chunk.token_ids
            yield ids, target_weights(ids, controls, rest_weight=options.rest_weight)


def talked(conversations, tokenizer, length):
    """`(ids, weights)` of conversations, answers only."""
    preprocessor = CodeGemmaChatPreprocessor(tokenizer, length)
    for messages in conversations:
        yield preprocessor.row(messages, length)


def asked_functions(texts, chats, rng):
    """Conversations about documented functions of the texts."""
    documents = list(texts["python"])
    rng.shuffle(documents)
    for document in documents:
        try:
            body = ast.parse(document.text).body
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in body:
            if found := described(node):
                question = rng.choice(ASKED).format(**found)
                yield conversation(question, instruct.fenced(found["answer"]))


def described(node):
    """`{"signature", "description", "answer"}` of a function that can be asked for."""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return None
    docstring = ast.get_docstring(node) or ""
    description = " ".join(docstring.partition("\n\n")[0].split())
    answer = ast.unparse(ast.FunctionDef(**{**vars(node), "body": node.body[1:]}))
    if not 20 <= len(description) <= 300 or not node.body[1:] or len(answer) > LONGEST:
        return None
    signature = f"{node.name}({ast.unparse(node.args)})"
    return {
        "signature": signature,
        "description": description.rstrip(".") + ".",
        "answer": answer,
    }


def small(texts, chats, rng):
    """Conversations about small functions made by rule."""
    for task in small_functions.tasks(3_900, rng.randrange(2**31)):
        yield task.messages()


def given(texts, chats, rng):
    """The conversations of `--chats`, in random order."""
    chats = list(chats)
    rng.shuffle(chats)
    yield from chats


CONVERSATIONS = {"functions": asked_functions, "small": small, "chats": given}


def conversation(question, answer):
    return [
        {"role": "user", "content": question},
        {"role": "model", "content": answer},
    ]


def until(found, places):
    """Segments and weights, as many as fill the places, or all."""
    segments, weights, total = [], [], 0
    for ids, weight in found:
        if total >= places:
            break
        if ids:
            segments.append(ids)
            weights.append(np.asarray(weight, np.float32))
            total += len(ids) - 1
    return segments, weights


if __name__ == "__main__":
    main()
