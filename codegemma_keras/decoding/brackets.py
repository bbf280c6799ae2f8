"""Which brackets and quotes are open at a place of a program, read roughly.

The reading serves most languages: quotes end with their line, except the threefold ones;
`#` before white space begins a comment.
"""

import re
from collections.abc import Sequence

CLOSING = {")": "(", "]": "[", "}": "{"}
QUOTES = ('"""', "'''", '"', "'", "`")
_MARKS = re.compile(r'"""|\'\'\'|["\'`()\[\]{}\n\\]|(?<!\S)#(?=\s)')


def marks(code: str, opened: Sequence[str] = (), start: int = 0) -> list[str]:
    """The brackets and quotes that are open at the end of `code`, the last one last.

    A closing bracket that closes nothing is in the list, too.

    Args:
        code: from its beginning, however long it is: a reading that began inside of a
            string would take all that follows for the opposite.
        opened: what is open at `start`, if that is known.
        start: the beginning of a line, from which on `code` is read.
    """
    return [mark for mark, _ in _read(code, opened, start)]


def opened_above(prefix: str) -> tuple[str, ...]:
    """What is open where the last line of `prefix` begins, for `marks` and `needless`."""
    return tuple(marks(prefix[: prefix.rfind("\n") + 1]))


def needless(
    code: str, start: int, opened: Sequence[str] = (), line: int = 0
) -> int | None:
    """Where from `start` on the first bracket is that closes nothing.

    Only one that its line has an opening one for: `start)` is a case in a shell.

    Args:
        code: from its beginning.
        start: the first place that counts.
        opened: what is open at `line`, the beginning of a line before `start`.
    """
    for mark, at in _read(code, opened, line):
        if at >= start and mark in CLOSING:
            before = code[: at + 1]
            shown = before[before.rfind("\n") + 1 :]
            # Counted without the quotes, too: in Rust one may begin a lifetime.
            more = before.count(mark) > before.count(CLOSING[mark])
            if more and CLOSING[mark] in shown:
                return at
    return None


def _read(code, opened, start):
    """`(mark, place)` of those in `marks`; what was open has the place -1."""
    stack, at = [(mark, -1) for mark in opened], start
    while mark := _MARKS.search(code, at):
        at, text = mark.end(), mark[0]
        last = stack[-1][0] if stack else None
        inside = last if last in QUOTES else None
        if text == "\\":
            at += 1
        elif text == "\n":
            if inside in ('"', "'"):
                stack.pop()  # an apostrophe, or a string that nobody closed
        elif inside is not None:
            if text == inside:
                stack.pop()
            elif text == inside * 3:
                stack.pop()
                at -= 2
        elif text == "#":
            line_end = code.find("\n", at)
            at = len(code) if line_end < 0 else line_end
        elif text in CLOSING:
            if last == CLOSING[text]:
                stack.pop()
            else:
                stack.append((text, mark.start()))
        else:
            stack.append((text, mark.start()))
    return stack


def is_open(code: str) -> bool:
    """Whether a bracket or quote that `code` opens is open at its end."""
    return holds_open(marks(code))


def holds_open(opened: Sequence[str]) -> bool:
    """Whether something that was opened is among `marks`."""
    return any(mark not in CLOSING for mark in opened)


def closes(opened: list[str], closing: str) -> bool:
    """Whether `closing` closes what was opened last.

    Args:
        opened: from `marks`.
        closing: closing brackets and quotes, such as `")`.
    """
    each = re.findall(r'"""|\'\'\'|.', closing)
    wanted = [CLOSING.get(mark, mark) for mark in each]
    return opened[len(opened) - len(wanted) :][::-1] == wanted
