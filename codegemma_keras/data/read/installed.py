"""Python source that is already on this machine: the standard library and packages.

What the embedded preset learns from, so that anyone can repeat it offline: files, and
the packed training rows made of them. Left out: the full data pipeline (near-duplicates,
secrets, repository order); that is `codegemma_keras.data`.
"""

import hashlib
import importlib.metadata
import importlib.util
import pathlib
import sysconfig
from collections.abc import Iterator, Sequence

import numpy as np

from codegemma_keras.data.rows.packing import pack_documents

STDLIB = "stdlib"
MAX_BYTES = 200_000  # longer files are tables and generated code
MAX_LINE = 400  # longer lines are data
SKIPPED_FOLDERS = {"test", "tests", "testing", "idle_test", "site-packages", "_api"}


def root_of(package: str) -> pathlib.Path:
    """The folder of an installed package, or of the standard library.

    Raises:
        ValueError: the package is not installed.
    """
    if package == STDLIB:
        return pathlib.Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"Package {package!r} is not installed, so it cannot be read as training "
            f"data. Install it (pip install {package}) or take it off the list."
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def licence_of(package: str) -> tuple[str, str]:
    """`(version, licence)` of an installed package, as its metadata states them."""
    if package == STDLIB:
        return sysconfig.get_python_version(), "PSF-2.0"
    names = importlib.metadata.packages_distributions().get(package, [package])
    meta = importlib.metadata.metadata(names[0])
    licence = meta.get("License-Expression") or ""
    if not licence:
        classifiers = meta.get_all("Classifier") or []
        licences = [c for c in classifiers if c.startswith("License ::")]
        licence = licences[0].split(" :: ")[-1] if licences else meta.get("License", "")
    return meta["Version"], licence.splitlines()[0] if licence else "see the package"


def python_files(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`(path, text)` of the Python files of packages, tests left out, each text once.

    Paths are relative and start with the package's name, `/` as separator. The order is
    that of `packages`, then alphabetical.
    """
    seen = set()
    for package in packages:
        root = root_of(package)
        for file in sorted(root.rglob("*.py")):
            relative = file.relative_to(root)
            if SKIPPED_FOLDERS.intersection(relative.parts):
                continue
            if file.name.startswith("test_") or file.stat().st_size > MAX_BYTES:
                continue
            try:
                text = file.read_text("utf-8")
            except UnicodeDecodeError:
                continue
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if digest in seen or not text.strip():
                continue
            if max(map(len, text.splitlines())) > MAX_LINE:
                continue
            seen.add(digest)
            yield f"{package}/{relative.as_posix()}".removeprefix(f"{STDLIB}/"), text


def pieces(text, tokenizer, limit, rng) -> Iterator[str]:
    """Cut a file at line ends into pieces of `limit / 4` to `limit` tokens.

    Each piece is split for fill-in-the-middle by itself: shorter ones give more middles
    for the same tokens, longer ones more context. A line that is longer than `limit`
    is a piece of its own.
    """
    piece, size, room = [], 0, rng.integers(limit // 4, limit + 1)
    for line in text.splitlines(keepends=True):
        length = len(tokenizer.encode(line))
        if piece and size + length > room:
            yield "".join(piece)
            piece, size, room = [], 0, rng.integers(limit // 4, limit + 1)
        piece.append(line)
        size += length
    if piece:
        yield "".join(piece)


def packed_rows(files, fim, length, tokens, seed):
    """Packed rows of about `tokens` tokens of files, in random order.

    Args:
        files: iterable of `(path, text)`, read as far as needed.
        fim: a `CodeGemmaFIMPreprocessor`.
        length: int. T.
        tokens: int, padding included.
        seed: int.

    Returns:
        `(x, y, sample_weight)` as docs/design.md defines them, each `[rows, T]`.
    """
    documents, total = [], 0
    rng = np.random.default_rng(seed)
    for path, text in files:
        # 24 tokens: the path line, the sentinels, bos and eos.
        for piece in pieces(text, fim.tokenizer, length - 24, rng):
            documents.append(fim.row(piece, path))
            total += len(documents[-1][0])
        if total > 1.02 * tokens:  # rows are packed to about 99 %
            break
    x, y, weight = pack_documents(documents, length)
    order = np.random.default_rng(seed + 1).permutation(len(y))
    x = {name: values[order] for name, values in x.items()}
    print(f"{len(documents):,} pieces, {total:,} tokens, {len(y):,} rows")
    return x, y[order], weight[order]
