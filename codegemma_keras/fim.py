"""Fill-in-the-middle on text: split a file, render a prompt, parse one, cut to a budget.

Training and inference both call `render`, so what a model was trained on is what it is
asked. A rendered prompt is a flat list of *parts*. A part that is a `Control` becomes
one control token; any other string is encoded by itself, so that no token spans a part
border, and never becomes a control token, whatever it contains.

    render("P", "S", path="a.py")                    a.py↵ <prefix> P <suffix> S <middle>
    render("P", "S", "M", path="a.py")               a.py↵ <prefix> P <suffix> S <middle> M
    render(..., mode="spm")                          a.py↵ <suffix> S <prefix> P <middle> M
    render(..., mode="spm", spm_order="bavarian")    a.py↵ <prefix> <suffix> S <middle> P M
    render(..., context=[("b.py", "B")])             b.py↵B <file separator> a.py↵ <prefix> ...

A model that was never taught to fill in is asked from left to right, with the suffix shown
first, as another file would be:

    render(..., mode="left_to_right")                S <file separator> a.py↵ P

There, a space before the cursor is left to the model, since a vocabulary joins it to the
word that follows: after `return ` as it stands hardly any word has been seen.

No whitespace is added but the newline that ends a path. CodeGemma's order of SPM is not
published. `"suffix_first"` is the default: the prefix is a run of its own between two
sentinels, so a prompt can be parsed back from its tokens, and as the prefix is followed
by `<middle>` alone, a cursor that moves on reuses all that comes before it. Bavarian et
al. 2022 (arXiv 2207.14255) write `"bavarian"`, in which prefix and middle run together.

Left out: where files are cut for training; `codegemma_keras.data.rows.fim_split` is the one
place for that.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

MODES = ("psm", "spm")
# A way to ask only: nothing is trained on it.
LEFT_TO_RIGHT = "left_to_right"
SPM_ORDERS = ("suffix_first", "bavarian")


class Control(str):
    """The name of a control token; the only thing that ever becomes one.

    A `Control` equals another of the same name, and never a plain string, so a text
    that reads `<|fim_prefix|>` is not mistaken for the sentinel.

    Examples:
        >>> PREFIX == Control("<|fim_prefix|>")
        True
        >>> PREFIX == "<|fim_prefix|>"
        False
    """

    __slots__ = ()

    def __eq__(self, other):
        return isinstance(other, Control) and str.__eq__(self, other)

    def __ne__(self, other):
        return not self == other

    __hash__ = str.__hash__

    def __repr__(self):
        return f"Control({str(self)!r})"


PAD = Control("<pad>")
END = Control("<eos>")
START = Control("<bos>")
PREFIX = Control("<|fim_prefix|>")
MIDDLE = Control("<|fim_middle|>")
SUFFIX = Control("<|fim_suffix|>")
FILE_SEPARATOR = Control("<|file_separator|>")
SENTINELS = (PREFIX, MIDDLE, SUFFIX)
# A model goes on with `<|file_separator|>another_file.py` after a good completion.
# Bos begins another text.
STOP = (PREFIX, MIDDLE, SUFFIX, FILE_SEPARATOR, END, START, Control("<end_of_turn>"))

Parts = list[str | Control]
Context = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Infill:
    r"""What `render` was given.

    Attributes:
        prefix, suffix: str, around the middle.
        middle: str, or None in an inference prompt.
        path: str, the file's path, or None.
        context: `(path, text)` of the other files, in the order of the prompt.
        mode: `"psm"` or `"spm"`.

    Examples:
        >>> found = parse(render("def f(", "):\n", "x", path="f.py"))
        >>> found.prefix, found.middle, found.suffix, found.path
        ('def f(', 'x', '):\n', 'f.py')
    """

    prefix: str
    middle: str | None
    suffix: str
    path: str | None = None
    context: tuple[tuple[str, str], ...] = ()
    mode: str = "psm"


# Text to parts


def render(
    prefix: str,
    suffix: str,
    middle: str | None = None,
    *,
    path: str | None = None,
    context: Context = (),
    mode: str = "psm",
    spm_order: str = "suffix_first",
) -> Parts:
    r"""The prompt for a middle, or with `middle` the training text of one file.

    Between training files of one repository goes `FILE_SEPARATOR`, at the end `END`;
    whoever joins the files adds them. Bos is added once, by whoever makes model inputs.

    Args:
        prefix: text before the cursor; may be empty.
        suffix: text after it; may be empty.
        middle: None for inference.
        path: the file's path in its repository; recommended.
        context: `(path, text)` of other files, most related last, next to the cursor.
        mode: `"psm"` or `"spm"`; without a middle, `"left_to_right"`, too.
        spm_order: `"suffix_first"` or `"bavarian"`.

    Returns:
        A list of `Control` and plain strings; strings may be empty.

    Raises:
        TypeError: something that must be text is not a string.
        ValueError: an unknown mode or order; a path that is empty or holds a newline.

    Examples:
        >>> render("def f(", "):\n", path="f.py")
        ['f.py\n', Control('<|fim_prefix|>'), 'def f(', Control('<|fim_suffix|>'), '):\n',
         Control('<|fim_middle|>')]
    """
    modes = MODES if middle is not None else (*MODES, LEFT_TO_RIGHT)
    if mode not in modes:
        raise ValueError(f"mode={mode!r} must be one of {modes}.")
    if spm_order not in SPM_ORDERS:
        raise ValueError(f"spm_order={spm_order!r} must be one of {SPM_ORDERS}.")
    prefix, suffix = _text(prefix, "prefix"), _text(suffix, "suffix")
    parts = _render_context(context)
    if mode == LEFT_TO_RIGHT and suffix.strip():
        parts += [suffix.lstrip("\r\n"), FILE_SEPARATOR]
    if path is not None:
        parts.append(_path_line(path))
    if mode == LEFT_TO_RIGHT:
        return [*parts, prefix.removesuffix(" ")]
    if mode == "psm":
        parts += [PREFIX, prefix, SUFFIX, suffix, MIDDLE]
    elif spm_order == "suffix_first":
        parts += [SUFFIX, suffix, PREFIX, prefix, MIDDLE]
    else:
        parts += [PREFIX, SUFFIX, suffix, MIDDLE, prefix]
    if middle is not None:
        parts.append(_text(middle, "middle"))
    return parts


def render_plain(text: str, path: str | None = None) -> Parts:
    r"""The training text of a file that is left as it is: `path↵text`, one part.

    Raises: as `render`.

    Examples:
        >>> render_plain("x = 1\n", path="a.py")
        ['a.py\nx = 1\n']
    """
    text = _text(text, "text")
    return [text if path is None else _path_line(path) + text]


def _render_context(context):
    parts = []
    for item in context:
        if isinstance(item, str) or len(item) != 2:
            raise ValueError(
                f"context must be (path, text) pairs, but one item is {item!r:.80}."
            )
        parts += [*render_plain(item[1], _text(item[0], "path")), FILE_SEPARATOR]
    return parts


def _text(value, name):
    if not isinstance(value, str):
        mend = (
            " Decode it first: value.decode('utf-8', 'surrogateescape') keeps every byte."
            if isinstance(value, bytes)
            else ""
        )
        raise TypeError(f"{name} must be a str, not {type(value).__name__}.{mend}")
    return str(value)  # A Control given as text is text.


def _path_line(path):
    path = _text(path, "path")
    if not path:
        raise ValueError("path is empty. Leave it None if the file has no name yet.")
    if "\n" in path or "\r" in path:
        raise ValueError(
            f"path={path!r} holds a line break, which ends a path in the prompt. Rename "
            "the file, or leave path None."
        )
    return path + "\n"


# Parts to text


def parse(parts: Iterable[str | Control], spm_order: str = "suffix_first") -> Infill:
    r"""The inverse of `render`; of `decode_parts(ids)` of its tokens, too.

    Leading bos and padding are skipped; the middle ends at the end of the parts, at
    `FILE_SEPARATOR` or at eos. A prompt with nothing at all after `MIDDLE` has no middle
    (None). With `spm_order="bavarian"`, `<prefix>` directly followed by `<suffix>` is
    read as SPM; there `parts` must come from `render`, since tokens do not say where the
    prefix ends and the middle starts.

    Raises:
        ValueError: the parts are not one rendered file.

    Examples:
        >>> parse(render("def f(", "):\n", "x", mode="spm"))
        Infill(prefix='def f(', middle='x', suffix='):\n', path=None, context=(), mode='spm')
    """
    parts = list(parts)
    start = 0
    while start < len(parts) and parts[start] in (PAD, START):
        start += 1
    cursor = _Cursor(parts, start)
    files, last = [], cursor.text()
    while cursor.at(FILE_SEPARATOR):
        files.append(last)
        cursor.take(FILE_SEPARATOR)
        last = cursor.text()
    context = tuple(_split_context(file) for file in files)
    path = None
    if last:
        path, newline, rest = last.partition("\n")
        if not path or not newline or rest:
            raise ValueError(
                f"Before the first FIM sentinel stands {last!r:.80}, which is no path "
                "line (a path and one newline)."
            )
    bavarian = spm_order == "bavarian"
    prefix, middle, suffix, mode = _parse_body(cursor, bavarian)
    return Infill(prefix, middle, suffix, path, context, mode)


def _parse_body(cursor, bavarian):
    mode = "psm"
    if cursor.at(SUFFIX):
        mode = "spm"
        suffix, prefix = cursor.after(SUFFIX), cursor.after(PREFIX)
    elif bavarian and cursor.at(PREFIX, SUFFIX):
        cursor.take(PREFIX)
        suffix = cursor.after(SUFFIX)
        cursor.take(MIDDLE)
        strings, ended = cursor.strings(), cursor.end()
        middle = "".join(strings[1:]) if len(strings) > 1 or ended else None
        return "".join(strings[:1]), middle, suffix, "spm"
    else:
        prefix, suffix = cursor.after(PREFIX), cursor.after(SUFFIX)
    cursor.take(MIDDLE)
    strings, ended = cursor.strings(), cursor.end()
    middle = "".join(strings) if strings or ended else None
    return prefix, middle, suffix, mode


def _split_context(file):
    path, newline, text = file.partition("\n")
    if not path or not newline:
        raise ValueError(
            f"A context file reads {file!r:.80}, without the path line that starts it."
        )
    return path, text


class _Cursor:
    """A place in a list of parts."""

    def __init__(self, parts, place):
        self.parts, self.place = parts, place

    def at(self, *controls):
        return tuple(self.parts[self.place : self.place + len(controls)]) == controls

    def take(self, control):
        if not self.at(control):
            found = self.parts[self.place : self.place + 1]
            raise ValueError(
                f"Part {self.place} should be {control!r}, but "
                + (f"is {found[0]!r:.80}." if found else "the parts end there.")
            )
        self.place += 1

    def strings(self):
        start = self.place
        while self.place < len(self.parts) and not isinstance(
            self.parts[self.place], Control
        ):
            self.place += 1
        return self.parts[start : self.place]

    def text(self):
        return "".join(self.strings())

    def after(self, control):
        self.take(control)
        return self.text()

    def end(self):
        """Whether the file is ended here, rather than cut off; nothing may follow."""
        rest = self.parts[self.place :]
        if any(part not in (FILE_SEPARATOR, END, PAD) for part in rest):
            raise ValueError(
                f"After the middle stands {rest[:2]!r:.80}. Parse one file at a time."
            )
        return bool(rest)


# Where to split


def split_at(text: str, start: int, end: int) -> tuple[str, str, str]:
    """`(prefix, middle, suffix)` with `middle = text[start:end]`, in characters.

    Raises:
        ValueError: not 0 <= start <= end <= len(text).

    Examples:
        >>> split_at("return x + y", 7, 8)
        ('return ', 'x', ' + y')
    """
    if not 0 <= start <= end <= len(text):
        raise ValueError(
            f"start={start}, end={end} must satisfy 0 <= start <= end <= {len(text)}, "
            "the length of the text in characters."
        )
    return text[:start], text[start:end], text[end:]


# What fits


def shrink(
    prefix: str,
    suffix: str,
    context: Context,
    limit: int,
    encode: Callable[[Parts], Sequence[int]],
    *,
    path: str | None = None,
) -> tuple[str, str, list[tuple[str, str]]]:
    """Cut text until its prompt has at most `limit` tokens, farthest from the cursor first.

    Three quarters of the room go to the prefix and one to the suffix; what one does not
    need goes to the other. Context files share what is left: whole files, taken from
    the last, nearest to the cursor, while they fit. Cuts are between characters, and
    text that fits comes back as it was.

    Args:
        prefix, suffix, context, path: as for `render`.
        limit: tokens of the whole prompt, all sentinels and the path line included, bos
            not.
        encode: `tokenizer.encode`.

    Returns:
        `(prefix, suffix, context)` for `render`.

    Raises:
        ValueError: the path line and the sentinels alone exceed `limit`.

    Examples:
        >>> def encode(parts):  # one token for each character and each control token
        ...     return [
        ...         c for p in parts for c in ([p] if isinstance(p, Control) else p)
        ...     ]
        >>> shrink("abcdefgh", "ijkl", [], 11, encode)
        ('cdefgh', 'ij', [])
    """
    room = limit - len(encode(render("", "", path=path)))
    if room < 0:
        raise ValueError(
            f"limit={limit} is too small for the sentinels and the path "
            f"{path!r:.80} alone. Raise it, or leave path None."
        )
    # Parts are encoded each by itself, so that sums over them are exact.
    for_suffix = _tokens(_head(suffix, room // 4, encode), encode)
    prefix = _tail(prefix, room - for_suffix, encode)
    room -= _tokens(prefix, encode)
    suffix = _head(suffix, room, encode)
    room -= _tokens(suffix, encode)
    kept = []
    for item in reversed(list(context)):
        [file, separator] = _render_context([item])
        room -= len(encode([separator]))
        if room < 0 or _head(file, room, encode) != file:
            break
        room -= _tokens(file, encode)
        kept.insert(0, item)
    return prefix, suffix, kept


def _tokens(text, encode):
    return len(encode([text]))


def _tail(text, limit, encode):
    """The last characters of `text`, as many as fit into `limit` tokens."""
    count = _longest(len(text), limit, lambda n: _tokens(text[len(text) - n :], encode))
    return text[len(text) - count :]


def _head(text, limit, encode):
    """The first characters of `text`, as many as fit into `limit` tokens."""
    count = _longest(len(text), limit, lambda n: _tokens(text[:n], encode))
    return text[:count]


def _longest(length, limit, tokens):
    """A count of characters that fits, where one more does not; `length` if all fit.

    Doubling before bisection: a file of megabytes costs what its kept part costs. One
    character more may take fewer tokens, so a count that does not fit is no proof that
    none above it does: doubling goes on until the limit is far behind. Only counts that
    were seen to fit are returned.
    """
    low, high = 0, min(length, 4 * limit)
    while (found := tokens(high)) <= 2 * limit + 64:
        if high == length:
            break
        low, high = (high, high) if found <= limit else (low, high)
        high = min(length, 2 * high + 1)
    if high == length and found <= limit:
        return length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens(middle) <= limit else (low, middle)
    return low
