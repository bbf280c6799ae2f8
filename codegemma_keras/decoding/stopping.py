"""Where a completion ends.

Pure functions on text, asked again as the text grows: `Stops.end` says where it ends,
`Stops.safe` how much of it no later text can take back (what may be streamed).
"""

import dataclasses
import re
from collections.abc import Sequence

from keras import ops

# Shorter lines, such as `)` or `}`, repeat everywhere and say nothing.
LEAST_REPEATED_LINE = 3


@dataclasses.dataclass(frozen=True)
class Stops:
    """Where the text of a completion ends, besides stop tokens.

    Attributes:
        strings: before the first of these.
        until: None; `"line"`: before the first line end; `"block"`: where the block of
            the cursor ends, that is before the first line that is indented less than
            the cursor's line. If the cursor's line opens a block (it ends in `:`, `{`,
            `(` or `[`), that block counts: its lines are indented more, and a line that
            closes the bracket still belongs to it.
        prefix: the text before the cursor.
        repeated_line: before a line that equals this one; see `repeated_line`.

    Raises:
        ValueError: an empty stop string, or another `until`.
    """

    strings: tuple[str, ...] = ()
    until: str | None = None
    prefix: str = ""
    repeated_line: str = ""

    def __post_init__(self):
        if isinstance(self.strings, str):
            object.__setattr__(self, "strings", (self.strings,))
        object.__setattr__(self, "strings", tuple(self.strings))
        if "" in self.strings:
            raise ValueError(
                "A stop string is empty, which would stop everywhere. Remove it."
            )
        if self.until not in (None, "line", "block"):
            raise ValueError(f"until={self.until!r}: give None, 'line' or 'block'.")

    def __bool__(self):
        return bool(self.strings or self.until or self.repeated_line)

    def end(self, text: str) -> tuple[int, str] | None:
        """`(characters kept, reason)` of the earliest stop in `text`, or None.

        Reasons: `"stop_string"`, `"line"`, `"block"`, `"suffix"`.
        """
        ends = []
        _, was_cut = kept = cut(text, self.strings)
        if was_cut:
            ends.append((len(kept[0]), "stop_string"))
        if self.until == "line" and "\n" in text:
            ends.append((text.index("\n"), "line"))
        if self.until == "block":
            end = block_end(self.prefix, text)
            if end is not None:
                ends.append((end, "block"))
        if self.repeated_line:
            for line in re.finditer(r"(?<=\n)[^\n]*(?=\n)", text):
                if line[0].strip() == self.repeated_line:
                    ends.append((line.start() - 1, "suffix"))
                    break
        return min(ends) if ends else None

    def safe(self, text: str) -> int:
        """How many characters of `text`, in which nothing stops, may go out now."""
        safe = len(text)
        for string in self.strings:
            # The longest end of the text that a stop string begins with.
            longest = min(len(string) - 1, len(text))
            for size in range(longest, 0, -1):
                if text.endswith(string[:size]):
                    safe = min(safe, len(text) - size)
                    break
        if (self.until == "block" or self.repeated_line) and "\n" in text:
            # An unfinished line may turn out not to belong; nor the blank ones before.
            safe = min(safe, len(text[: text.rfind("\n")].rstrip()))
        return safe


def indentation(line: str) -> int:
    """Columns of white space at the start; a tab counts to the next multiple of 8."""
    line = line.expandtabs(8)
    return len(line) - len(line.lstrip())


def block_end(prefix: str, text: str) -> int | None:
    """Where in `text` the block of the cursor, which stands after `prefix`, ends.

    Returns:
        How many characters of `text` belong to it, without the last line end; None if
        the block may go on.
    """
    first, *lines = text.split("\n")
    current = prefix[prefix.rfind("\n") + 1 :] + first
    level = indentation(current)
    if not current.strip() and lines:
        level = len(current.expandtabs(8))
    opens = current.rstrip().endswith((":", "{", "(", "["))
    end = start = len(first)
    for number, line in enumerate(lines):
        start += 1
        if line.strip():
            outside = indentation(line) < level + opens
            if outside and opens and line.lstrip()[0] in "})]":
                # The closing line: to its end, once that is known.
                return start + len(line) if number + 1 < len(lines) else None
            if outside:
                return end
            end = start + len(line)
        start += len(line)
    return None


def repeated_line(suffix: str) -> str:
    """The first whole line of a suffix that says something, stripped; or "".

    A completion that comes to this line has run into what is there already.
    """
    for line in suffix.split("\n")[1:]:
        if len(line.strip()) >= LEAST_REPEATED_LINE:
            return line.strip()
    return ""


def cut(text: str, stop_strings: Sequence[str]) -> tuple[str, bool]:
    """Text before the first occurrence of any stop string.

    Args:
        text: the completion.
        stop_strings: none may be empty.

    Returns:
        `(text, whether something was cut)`.

    Raises:
        ValueError: a stop string is empty.
    """
    if isinstance(stop_strings, str):
        stop_strings = [stop_strings]
    end = len(text)
    for stop in stop_strings:
        if not stop:
            raise ValueError(
                "A stop string is empty, which would stop everywhere. Remove it."
            )
        found = text.find(stop)
        if found >= 0:
            end = min(end, found)
    return text[:end], end < len(text)


def output_mask(token_ids, padding_mask, stop_token_ids):
    """Mask `[B, T]` of prompt and new tokens up to and with the first new stop."""
    if stop_token_ids is None:
        return ops.ones_like(token_ids, dtype="bool")
    is_stop = ops.any(
        token_ids[:, :, None] == ops.convert_to_tensor(list(stop_token_ids)), axis=-1
    )
    is_stop = ops.logical_and(is_stop, ops.logical_not(ops.cast(padding_mask, "bool")))
    is_stop = ops.cast(is_stop, "int32")
    return ops.cumsum(is_stop, axis=-1) - is_stop == 0
