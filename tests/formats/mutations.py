"""Valid folders, damaged at random: each loads right or ends in one clear error.

    python -m tests.formats.mutations --count 3000

A load that takes half a minute ends the program with a traceback of where it hangs.

`test_mutations.py` runs a few of the same seeds. What counts as right after a change
of a JSON file: the same weights, or none that fit. A changed byte among the numbers of
a tensor cannot be noticed; it must only be finite.
"""

import argparse
import collections
import faulthandler
import json
import pathlib
import random
import shutil
import sys
import tempfile
import traceback
import warnings

from codegemma_keras import CodeGemmaCausalLM
from tests import tiny_models

SECONDS = 30  # far above what a load takes
BYTES = 600 << 20

VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 7, 10**6, 4 * 10**8, 2**63, 10**40, 1e-6, 0.5,
    -1.5, 1e308, float("nan"), float("inf"), "", "x", "float8_e4m3fn", "int32", "../x",
    "complex64", "a/b", "\0", [], [1], [[[]]], {}, {"class_name": "Dense", "config": {}},
    {"class_name": "DTypePolicy", "config": {"name": 5}}, "int8_from_float32",
    {"module": "keras.layers", "class_name": "Dense", "config": {"units": 5},
     "registered_name": None},
]  # fmt: skip


def make_folders(root: pathlib.Path) -> tuple[dict, dict]:
    """Valid folders by kind, and the values of the model in all of them."""
    task = tiny_models.our_task()
    folders = {kind: root / kind for kind in ("keras", "keras shards", "transformers")}
    task.save_to_preset(folders["keras"])
    task.save_to_preset(folders["keras shards"], max_shard_size=1e-4)
    task.export_to_transformers(folders["transformers"])
    (folders["transformers"] / "added_tokens.json").write_text("{}")
    return folders, tiny_models.values(task.backbone)


def places(value, path=()):
    """Paths of every entry of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in items:
        yield (*path, key)
        if isinstance(entry, (dict, list)) and entry:
            yield from places(entry, (*path, key))


def mutate_json(text: str, rng) -> str:
    """Change one entry: another value, another type, gone, doubled, or nested."""
    value = json.loads(text)
    kind = rng.randrange(8)
    if kind == 0:
        return text[: rng.randrange(len(text))]
    if kind == 1:
        return "[" * 100_000 + text
    if kind == 2:
        return rng.choice(["[]", "null", "{}", "5", '"x"', "", "\0", "9" * 5000])
    found = list(places(value)) or [("new",)]
    # Few of the entries of an index or of a quantized policy would be picked else.
    path = rng.choice(found if rng.random() < 0.5 else [p for p in found if len(p) < 3])
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if kind == 3:
        parent.pop(path[-1], None) if isinstance(parent, dict) else parent.clear()
    elif kind == 4 and isinstance(parent, dict):
        parent["unknown"] = rng.choice(VALUES)
    else:
        parent[path[-1]] = rng.choice(VALUES)
    return json.dumps(value)


def mutate_bytes(data: bytes, rng) -> bytes:
    """Cut, lengthen or overwrite a file, mostly at its beginning."""
    data = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data) + 1)])
    if kind == 1:
        return bytes(data) + rng.randbytes(rng.randrange(1, 100))
    reach = len(data) if rng.random() < 0.3 else min(len(data), 4096)
    place = rng.randrange(max(reach, 1))
    if kind == 2:
        data[place : place + 8] = b"\xff" * 8
    elif kind == 3:
        del data[place : place + rng.randrange(1, 20)]
    elif kind == 4:
        data[place:place] = rng.randbytes(rng.randrange(1, 20))
    else:
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(max(reach, 1))] = rng.randrange(256)
    return bytes(data)


def mutate(folder: pathlib.Path, rng) -> str:
    """Damage one file of a folder; returns what was done, for messages."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Every file as often as every other, whatever its size.
    path = rng.choice(files)
    name = path.relative_to(folder)
    kind = rng.random()
    if kind < 0.04:
        path.unlink()
        return f"{name} removed"
    if kind < 0.08:
        other = rng.choice(files)
        path.write_bytes(other.read_bytes())
        return f"{name} became {other.relative_to(folder)}"
    if path.suffix == ".json" and kind < 0.9:
        path.write_text(mutate_json(path.read_text(), rng))
        return f"{name} changed"
    path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    return f"bytes of {name}"


def start_again():
    """Let the peak begin at what is resident now, or earlier loads would hide this one's."""
    if sys.platform == "linux":
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_bytes():
    """The peak of this process; 0 where the kernel doesn't tell it."""
    if sys.platform != "linux":
        return 0
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def judge(folder, what, expected) -> str:
    """Load a mutated folder; raises AssertionError unless it ends well."""
    start_again()
    before = peak_bytes()
    raised = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # More rows than pieces is said so.
            task = CodeGemmaCausalLM.from_preset(folder)
    except (ValueError, OSError) as error:
        raised = error
    if raised is None:
        values = tiny_models.values(task.backbone)
        if "bytes of" not in what:
            assert values.keys() == expected.keys(), what
            assert all((values[p] == expected[p]).all() for p in values), what
    else:
        message = str(raised)
        assert folder.name in message, f"names no file: {message}"
        assert raised.__cause__ is None, message
        assert len(message) < 1000, message
        assert "Traceback" not in message, message
    grown = peak_bytes() - before
    assert grown < BYTES, f"{grown >> 20} MB"
    return type(raised).__name__ if raised else "loaded"


def run(seeds, root: pathlib.Path):
    """Mutate and load once for every seed; `(seed, what, outcome or traceback)`."""
    folders, expected = make_folders(root)
    for seed in seeds:
        rng = random.Random(seed)
        folder = root / "mutated-folder"
        shutil.rmtree(folder, ignore_errors=True)
        kind = rng.choice(sorted(folders))
        shutil.copytree(folders[kind], folder)
        what = f"{kind}: {mutate(folder, rng)}"
        try:
            yield seed, what, judge(folder, what, expected), None
        except BaseException:
            yield seed, what, "BAD", traceback.format_exc()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    outcomes = collections.Counter()
    with tempfile.TemporaryDirectory() as root:
        seeds = range(args.first, args.first + args.count)
        faulthandler.dump_traceback_later(10 * SECONDS, exit=True)  # makes the folders
        for seed, what, outcome, trace in run(seeds, pathlib.Path(root)):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            outcomes[outcome] += 1
            if trace:
                print(seed, what, trace[-1500:], flush=True)
        faulthandler.cancel_dump_traceback_later()
    print(dict(outcomes))


if __name__ == "__main__":
    main()
