"""Where the text of a completion ends, besides stop tokens: pure functions on text.

They are asked again as the text grows. The stop that is complete first wins, character by
character, so in whatever pieces the tokens come, a text ends at the same place.

A model that was taught to fill in stops by itself. One that was not goes on, so somebody
has to say how much belongs at a cursor; `what_is_missing` does, from the text around it:

    line        the rest of a line of which the end stands after the cursor
    statement   one statement: to its closing bracket, and with its block if it opens one
    block       all of the block that the line above has opened
"""

import dataclasses
import re

from codegemma_keras.decoding.brackets import is_open

# Shorter lines, such as `)` or `}`, repeat everywhere and say nothing.
LEAST_REPEATED_LINE = 3
# A line that begins so belongs to the statement above it.
CONTINUES = ("else", "elif", "except", "finally")
# A line that begins so belongs to the statement below it: decorators and comments.
_LEADS = re.compile(r"@|#(?:\s|$)|//")
_COMMENT = re.compile(r"(?<!\S)#\s.*")


@dataclasses.dataclass(frozen=True)
class Stops:
    """Where the text of a completion ends, besides stop tokens.

    Attributes:
        strings: before any of these.
        until: None; `"line"`: before the first line end; `"statement"`: see
            `statement_end`; `"block"`: where the block of the cursor ends, that is before
            the first line that is indented less than the cursor's line. If the cursor's
            line opens a block (it ends in `:`, `{`, `(` or `[`), that block counts: its
            lines are indented more, and a line that closes the bracket still belongs to
            it.
        prefix: the text before the cursor.
        repeated_line: before a line that says this one again, at the same column; see
            `repeated_line`.
    """

    strings: tuple[str, ...] = ()
    until: str | None = None
    prefix: str = ""
    repeated_line: str = ""

    def __bool__(self):
        return bool(self.strings or self.until or self.repeated_line)

    def end(self, text: str) -> tuple[int, str] | None:
        """`(characters kept, reason)` of the stop that is complete first, or None.

        Of several that are complete at the same character, the one that keeps least.
        Reasons: `"stop_string"`, `"line"`, `"statement"`, `"block"`, `"suffix"`.
        """
        stops = []  # (characters that complete it, characters kept, reason)
        for string in self.strings:
            found = text.find(string)
            if found >= 0:
                stops.append((found + len(string), found, "stop_string"))
        line_end = text.find("\n")
        if self.until == "line" and line_end >= 0:
            stops.append((line_end + 1, _line_length(text, line_end), "line"))
        if self.until in ("statement", "block"):
            end = statement_end if self.until == "statement" else block_end
            found = end(self.prefix, text)
            if found is not None:
                stops.append((*found, self.until))
        if self.repeated_line:
            for line in re.finditer(r"(?<=\n)[^\n]*(?=\n)", text):
                if same_line(line[0], self.repeated_line):
                    kept = _line_length(text, line.start() - 1)
                    stops.append((line.end() + 1, kept, "suffix"))
                    break
        return min(stops)[1:] if stops else None

    def safe(self, text: str) -> int:
        """How many characters of `text`, in which nothing stops, may go out now."""
        partly = (overlap(text, string[:-1]) for string in self.strings)
        safe = len(text) - max(partly, default=0)
        if (self.until or self.repeated_line) and text.endswith("\r"):
            safe = min(safe, len(text) - 1)  # perhaps half a line end
        blocks = self.until in ("statement", "block")
        if (blocks or self.repeated_line) and "\n" in text:
            # An unfinished line may turn out not to belong; nor the blank ones before.
            safe = min(safe, len(text[: text.rfind("\n")].rstrip()))
        return safe

    def whole(self, text: str) -> int:
        """How many characters of `text`, whose tokens may end here, are whole statements.

        What is left out is the last line, which is not finished, and before it what opens
        a block or a bracket that nothing follows. All counts where one line is asked for.
        """
        if self.until not in ("statement", "block"):
            return len(text)
        line = _last_line(self.prefix)
        while "\n" in text:
            text = text[: text.rfind("\n")].rstrip()
            last = _last_line(line + text).strip()
            if not (opens_block(last) or _LEADS.match(last) or is_open(line + text)):
                return len(text)
        return 0


def overlap(text: str, repeated: str) -> int:
    """Length of the longest end of `text` that `repeated` begins with."""
    sizes = range(min(len(repeated), len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(repeated[:size])), 0)


def indentation(line: str) -> int:
    """Columns of white space at the start; a tab counts to the next multiple of 8."""
    line = line.expandtabs(8)
    return len(line) - len(line.lstrip())


def same_line(one: str, other: str) -> bool:
    """Whether two lines say the same in the same block.

    The same words in a deeper block are another statement: a function may end early with
    the `return` that also ends it.
    """
    return one.strip() == other.strip() and indentation(one) == indentation(other)


def opens_block(line: str) -> bool:
    """Whether the end of a line says that lines which are indented more follow."""
    return _COMMENT.sub("", line).rstrip().endswith((":", "{", "(", "["))


def _line_length(text, line_end):
    """Where the line that ends at the newline `line_end` ends without its line end."""
    return line_end - text.endswith("\r", 0, line_end)


def _last_line(prefix):
    return prefix[prefix.rfind("\n") + 1 :]


def block_end(prefix: str, text: str) -> tuple[int, int] | None:
    """Where in `text` the block of the cursor, which stands after `prefix`, ends.

    Returns:
        How many characters it takes to know, and how many of them belong to the block,
        without the last line end; None if the block may go on.
    """
    first, *lines = text.split("\n")
    first = first.removesuffix("\r") if lines else first
    current = _last_line(prefix) + first
    level = indentation(current)
    if not current.strip() and lines:
        level = len(current.expandtabs(8))
    # On a blank line the block is the one that the cursor is in already.
    opens = bool(_last_line(prefix).strip()) and opens_block(current)
    kept, start = len(first), text.find("\n")
    for number, line in enumerate(lines):
        start += 1
        code = line.strip()
        if code:
            last = start + len(line.rstrip("\r"))
            outside = indentation(line) < level + opens
            if outside and opens and code[0] in "})]":
                # The closing line: to its end, once that is known.
                whole = number + 1 < len(lines)
                return (start + len(line) + 1, last) if whole else None
            if outside:
                return start + line.index(code[0]) + 1, kept
            kept = last
        start += len(line)
    return None


def statement_end(prefix: str, text: str) -> tuple[int, int] | None:
    r"""Where in `text` the statement at the cursor, which stands after `prefix`, ends.

    It goes on while a bracket is open, after a backslash, as long as its block does, and
    with an `else`, `elif`, `except` or `finally`. Comments and decorators above it belong
    to it.

        prefix "x = "     text "f(\n    1,\n)\ny = 2\n"           "f(\n    1,\n)"
        prefix "    "     text "if a:\n        b()\n    c()\n"    "if a:\n        b()"

    If the cursor's line is whole, so that the text begins with a line end, the statement
    on the next line counts.

    Returns: as `block_end`.
    """
    line, lines = _last_line(prefix), text.split("\n")
    first = next((n for n, added in enumerate(lines) if added.strip()), None)
    if first is None:
        return None
    if opens_block(line) or is_open(line):
        first = 0
    code = "" if first else line  # The statement begins on this line or on a later one.
    level = indentation(code + lines[first])
    start = kept = sum(len(added) + 1 for added in lines[:first])
    inside, has_block = True, False  # inside: the next line belongs, whatever it is
    for number, added in enumerate(lines[first:], first):
        whole = number + 1 < len(lines)
        if added.strip():
            known = None if inside else _outside(added, level, has_block, whole)
            if known is not None:
                return start + known, kept
            kept = start + len(added.removesuffix("\r"))
        if not whole:
            return None
        shown = (line + added if number == 0 else added).strip()
        code += added + "\n"
        start += len(added) + 1
        inside = is_open(code) or added.rstrip("\r").endswith("\\")
        if shown and not inside:
            has_block = has_block or opens_block(shown)
            if not has_block and not _LEADS.match(shown):
                return start, kept
    return None


def _outside(line, level, has_block, whole):
    """After how many characters of `line` it is known not to belong; None: it may."""
    code, depth = line.strip(), indentation(line)
    start = line.index(code[0])
    if depth < level:
        return start + 1
    if depth > level or not has_block or code[0] in ")]}":
        return None
    word = re.match(r"\w*", code)[0]
    if word in CONTINUES:
        return None
    sizes = range(1, len(code) + 1)
    begins = (any(word.startswith(code[:n]) for word in CONTINUES) for n in sizes)
    known = next((n for n, may in zip(sizes, begins, strict=True) if not may), None)
    if known is not None:
        return start + known
    return len(line) + 1 if whole else None


def what_is_missing(prefix: str, suffix: str) -> str:
    """Whether `"line"`, `"statement"` or `"block"` belongs at a cursor.

    For models that do not stop by themselves. A block is missing where none of it is there:
    behind a line that opens one, or behind its docstring.
    """
    line, (rest, *below) = _last_line(prefix), suffix.split("\n")
    if rest.strip():
        return "line"
    following = next((text for text in below if text.strip()), "")
    if line.strip():
        if following and indentation(following) > indentation(line):
            return "line"  # its block is there
        return "block" if opens_block(line) else "statement"
    column = len(line.expandtabs(8))
    if following and indentation(following) >= column:
        # Deeper lines are the block of the line that is missing.
        deeper = column and indentation(following) > column
        return "line" if deeper else "statement"
    above = prefix[: len(prefix) - len(line)].rstrip()
    # Behind a docstring, too, nothing of the block is there yet.
    begins = opens_block(_last_line(above)) or above.endswith(('"""', "'''"))
    return "block" if begins else "statement"


def repeated_line(suffix: str) -> str:
    """The first whole line of a suffix that says something, with its indentation; or "".

    A completion that comes to this line has run into what is there already.
    """
    for line in suffix.split("\n")[1:]:
        if len(line.strip()) >= LEAST_REPEATED_LINE:
            return line.rstrip()
    return ""
