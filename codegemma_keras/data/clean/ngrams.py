"""Hashes of n-grams of a program's tokens, and of the words of a text.

n-grams of code survive white space, comments, docstrings, quotes, line breaks, trailing
commas and *renamed identifiers*: a variable is written as the distance to its last
mention within the n-gram (Baker's parameterised matching, 1993), so `x = x + y` and
`a = a + b` are one, and `a = b + b` is another. Python's type hints and statements that
only log are left out, from the tokens, as if from the syntax tree: the tree of every file
would cost several times as much, and not every file parses.
"""

import builtins
import keyword
import re
import zlib
from collections.abc import Iterable

import numpy as np

from codegemma_keras.data.languages import LANGUAGES

WORDS = 10  # per n-gram of text
TOKENS = 10  # per n-gram of code
# Tokens whose codes are remembered, most of a corpus's mentions: 10 MB.
MAX_REMEMBERED = 50_000
# Longer strings are prose or data, whatever their quotes.
LONG_STRING = 100
# Tokens in which a call or a header must end, so that a text of brackets costs no more.
MAX_CALL = 1_000
_STRINGS = (
    r"|[rRbBuUfF]{0,2}(?:'''[\s\S]*?'''|\"\"\"[\s\S]*?\"\"\")"
    r"|[rRbBuUfF]{0,2}(?:'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")"
)
_REST = _STRINGS + r"|[^\W\d]\w*|\d[\w.]*|[^\s\w]"
_HASH_TOKEN = re.compile(r"\#[^\n]*" + _REST)
_SLASH_TOKEN = re.compile(r"//[^\n]*|/\*[\s\S]*?\*/" + _REST)
# Names that keep their identity; all others may be renamed.
_FIXED = (
    frozenset(keyword.kwlist)
    | frozenset(dir(builtins))
    | frozenset(
        "self cls this new null true false undefined void int float double bool let const "
        "var public private static final return def".split()
    )
)
# What reformatting adds or takes away.
_DROPPED = frozenset("(),;\\{}")
_WORD = re.compile(r"\w+")
# `name: type = value` at the start of a line.
_ANNOTATED = re.compile(
    r"^([ \t]*(?!(?:else|try|finally|default)\b)[^\W\d][\w.]*)[ \t]*:[ \t]*[^\W\d][^\n=#]*"
    r"(?==[^=])",
    re.M,
)
# Functions that log, where something before the dot is a logger; and those that print.
_LOGGING = frozenset(
    "critical debug error exception fatal info log print trace warn warning write".split()
)
_LOGGER = re.compile(r"log|warn|console|std(?:out|err)|trace", re.I)
_PRINTS = frozenset(("print", "pprint"))
# Around these a call is part of an expression.
_BEFORE_VALUE = frozenset("= + - * / % < > & | ^ ~ , ( [ { ! @ .".split()) | frozenset(
    "and as assert await elif if in is lambda not or return while yield".split()
)
# A statement may start with `if` or `not`.
_AFTER_VALUE = frozenset("= + - * / % < > & | ^ . ( [ and in is or".split())


class Program:
    """The tokens of a program that count, as numbers.

    Args:
        text: a program; it need not parse.
        language: says what a comment is.
        inside: read strings over several lines, too, as programs of their own.
    """

    def __init__(self, text: str, language: str = "python", inside: bool = False):
        entry = LANGUAGES.get(language)
        python = language == "python"
        pattern = _SLASH_TOKEN if entry and entry.comment == "//" else _HASH_TOKEN
        tokens = pattern.findall(_ANNOTATED.sub(r"\1", text) if python else text)
        self._parts = [_codes(tokens, python)]
        if inside:
            strings = [t for t in tokens if len(t) > 40 and t.endswith(_TRIPLE)]
            text = "\n".join(t.lstrip("rRbBuUfF")[3:-3] for t in strings)
            self._parts.append(_codes(pattern.findall(text), python))

    def __len__(self):
        return len(self._parts[0][0])

    def ngrams(self, size: int = TOKENS) -> np.ndarray:
        """Hashes of the n-grams of tokens, uint64, in order.

        A program shorter than `size` is one n-gram.
        """
        return np.concatenate([_ngrams(c, n, size) for c, n, _, _ in self._parts])

    def functions(self, sizes: Iterable[int]) -> np.ndarray:
        """Hashes of what starts at a `def` and has one of `sizes` tokens, uint64.

        The function's own name counts: a function of a few tokens is told by it.
        """
        sizes = sorted(sizes)
        found = [np.zeros(0, np.uint64)]
        for codes, names, starts, own in self._parts:
            # The last function may be shorter than the longest of sizes.
            rest = np.zeros(sizes[-1] if sizes else 0, np.uint64)
            codes, names = np.append(codes, rest), np.append(names, rest)
            hashes = _hashes(codes, names, starts, sizes)
            found += [part ^ (own * _FACTOR) for part in hashes]
        return np.concatenate(found)


def code_ngrams(text: str, size: int = TOKENS, language: str = "python") -> np.ndarray:
    """`Program(text, language).ngrams(size)`."""
    return Program(text, language).ngrams(size)


def word_ngrams(text: str, size: int = WORDS) -> np.ndarray:
    """Hashes of the n-grams of the words of a text, whatever stands between them."""
    words = _WORD.findall(text.lower())
    if len(words) < size:
        return np.zeros(0, np.uint64)
    codes = np.fromiter(map(_WORDS.__getitem__, words), np.uint64, len(words))
    return _ngrams(codes, np.zeros(len(codes), np.uint64), size)


# Tokens as numbers


# A token is its hash in the low 32 bits, and flags.
_SKIP, _NAME, _DOT, _OPEN, _DEF, _LOGS = (1 << bit for bit in range(32, 38))
_TRIPLE = ("'''", '"""')


class _Codes(dict):
    """Token -> number, remembered."""

    def __missing__(self, token):
        if token[0] == "#" or token[:2] in ("//", "/*") or token.endswith(_TRIPLE):
            return _SKIP
        if len(token) > LONG_STRING:
            return _SKIP
        code = zlib.crc32(_plain(token).encode("utf-8", "replace"))
        if token in _DROPPED:
            code |= _SKIP
        code |= _OPEN * (token == "(") | _DOT * (token == ".") | _DEF * (token == "def")
        code |= _LOGS * (token in _LOGGING or token in _PRINTS)
        if token not in _FIXED and (token[0].isalpha() or token[0] == "_"):
            code |= _NAME * token.isidentifier()
        if len(self) >= MAX_REMEMBERED:  # A corpus has no end of names.
            self.clear()
        self[token] = code
        return code


_CODES = _Codes()


class _Words(dict):
    def __missing__(self, word):
        if len(self) >= MAX_REMEMBERED:
            self.clear()
        code = self[word] = zlib.crc32(word.encode("utf-8", "replace"))
        return code


_WORDS = _Words()


def _plain(token):
    """Strings without quotes and escapes, `1.` and `1.0` as `1`."""
    if token[-1] in "\"'" and len(token) > 1:
        return "'" + token.lstrip("rRbBuUfF")[1:-1].replace("\\", "")
    if token[0].isdigit() and "." in token:
        return token.rstrip("0").rstrip(".")
    return token


def _codes(tokens, python):
    """`(codes, names, starts, own)` of the tokens that count.

    `codes [n]` has a hash per token, 0 for a name that may be renamed; `names [n]` the
    identity of such a name, else 0; `starts [k]` the places of `def`, and `own [k]` the
    hash of what follows each.
    """
    flags = np.fromiter(map(_CODES.__getitem__, tokens), np.int64, len(tokens))
    solid = flags != _SKIP
    if python:
        for first, end in _uncompared(tokens, flags):
            solid[first:end] = False
    flags = flags[solid]
    before = np.concatenate(([0], flags[:-1]))
    after = np.concatenate((flags[1:], [0]))
    # Attributes and called functions keep their names; defined ones may be renamed.
    called = (after & _OPEN > 0) & (before & _DEF == 0)
    is_name = (flags & _NAME > 0) & (before & _DOT == 0) & ~called
    code = flags & 0xFFFFFFFF
    names = np.where(is_name, code + 1, 0).astype(np.uint64)
    codes = np.where(is_name, 0, code).astype(np.uint64)
    kept = flags & _SKIP == 0
    starts = np.flatnonzero((flags & _DEF > 0)[kept])
    own = (after & 0xFFFFFFFF).astype(np.uint64)[kept][starts]
    return codes[kept], names[kept], starts, own


# Hashes


_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_IS_NAME = np.uint64(1 << 33)


def _ngrams(codes, names, size):
    """Hashes of all n-grams, in which a name counts as the distance to its last mention."""
    if not len(codes):
        return np.zeros(0, np.uint64)
    size = min(size, len(codes))
    every = slice(0, len(codes) - size + 1)
    return next(_hashes(codes, names, every, [size]))


def _distances(names):
    """For each place: how far back the same name stands, or 0."""
    distance = np.zeros(len(names), np.uint64)
    order = np.argsort(names, kind="stable")
    same = (names[order][1:] == names[order][:-1]) & (names[order][1:] > 0)
    distance[order[1:][same]] = (order[1:] - order[:-1])[same]
    return distance


def _hashes(codes, names, places, sizes):
    """For each of `sizes`, in order: the hashes of so many tokens from each of `places`.

    Places are an array, or a slice.
    """
    distance = _distances(names)
    codes = codes ^ np.where(names > 0, _IS_NAME, 0).astype(np.uint64)
    mixed = np.uint64(0x243F6A8885A308D3)
    for k in range(sizes[-1] if sizes else 0):
        if isinstance(places, slice):
            here = slice(places.start + k, places.stop + k)
        else:
            here = places + k
        gap = distance[here]
        # Beyond the n-gram's start a name is new.
        token = codes[here] ^ ((gap * (gap <= k)) << np.uint64(40))
        mixed = (mixed ^ token) * _FACTOR
        mixed ^= mixed >> np.uint64(31)
        if k + 1 in sizes:
            yield mixed


# Type hints and logging


def _uncompared(tokens, flags):
    """Spans `(first, end)` of the tokens of hints in headers, and of logging."""
    past = 0
    for place in np.flatnonzero(flags & _DEF).tolist():
        if place >= past and tokens[place + 2 : place + 3] == ["("]:
            end = _closing(tokens, place + 2)
            # What does not close is no program, and is not searched again and again.
            past = end if end >= 0 else place + MAX_CALL
            if end >= 0:
                yield from _hints(tokens, place + 2, end)
    past = 0
    for place in np.flatnonzero(flags & _LOGS).tolist():
        if place >= past and _logs(tokens, place):
            end = _closing(tokens, place + 1)
            # What does not close is no program, and is not searched again and again.
            past = end + 1 if end >= 0 else place + MAX_CALL
            after = tokens[past] if past < len(tokens) else ";"
            if end >= 0 and after not in _AFTER_VALUE:
                yield _start(tokens, place)[0], past


def _step(token):
    """How much deeper a token nests what follows it."""
    return (token in ("(", "[", "{")) - (token in (")", "]", "}"))


def _closing(tokens, place):
    """The place of the bracket that closes the one at `place`, or -1."""
    depth = 0
    for i in range(place, min(len(tokens), place + MAX_CALL)):
        depth += _step(tokens[i])
        if not depth:
            return i
    return -1


def _hints(tokens, start, end):
    """Of a header with brackets at `start` and `end`: `: int` of parameters, `-> int`."""
    depth, hint, default = 0, None, False
    for i in range(start, end + 1):
        token = tokens[i]
        depth += _step(token)
        ends = not depth or (depth == 1 and token in (",", "="))
        if hint is not None and ends:
            yield hint, i
            hint = None
        if depth == 1 and token in (",", "="):
            default = token == "="
        elif depth == 1 and token == ":" and not default and hint is None:
            hint = i
    if tokens[end + 1 : end + 3] == ["-", ">"]:
        for i in range(end + 3, min(len(tokens), end + MAX_CALL)):
            depth += _step(tokens[i])
            if tokens[i] == ":" and not depth:
                yield end + 1, i
                return


def _logs(tokens, place):
    """Whether the name at `place` is called, logs, and starts a statement."""
    if tokens[place + 1 : place + 2] != ["("]:
        return False
    first, path = _start(tokens, place)
    logs = any(map(_LOGGER.search, path)) if path else tokens[place] in _PRINTS
    return logs and (first == 0 or tokens[first - 1] not in _BEFORE_VALUE)


def _start(tokens, place):
    """`(first, path)` of `a.b(c).info` with `info` at `place`: that of `a`; `[b, a]`."""
    first, path = place, []
    while first >= 2 and tokens[first - 1] == "." and len(path) < 4:
        first = _opening(tokens, first - 2)
        path.append(tokens[first])
    return first, path


def _opening(tokens, place):
    """The place of the name whose call ends at `place`: `getLogger(x)` -> `getLogger`."""
    depth = 0
    for i in range(place, max(-1, place - MAX_CALL // 10), -1):
        depth -= _step(tokens[i])
        if not depth and tokens[i] not in ("(", "[", "{"):
            return i
    return place
