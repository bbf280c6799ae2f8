"""Which brackets and quotes are open at a place of a program, read roughly.

The reading serves most languages: quotes end with their line, except the threefold ones;
`#` before white space begins a comment.
"""

import re

CLOSING = {")": "(", "]": "[", "}": "{"}
QUOTES = ('"""', "'''", '"', "'", "`")
_MARKS = re.compile(r'"""|\'\'\'|["\'`()\[\]{}\n\\]|(?<!\S)#(?=\s)')


def marks(code: str) -> list[str]:
    """The brackets and quotes that are open at the end of `code`, the last one last.

    A closing bracket that closes nothing is in the list, too.
    """
    stack, at = [], 0
    while mark := _MARKS.search(code, at):
        at, text = mark.end(), mark[0]
        inside = stack[-1] if stack and stack[-1] in QUOTES else None
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
            if stack and stack[-1] == CLOSING[text]:
                stack.pop()
            else:
                stack.append(text)
        else:
            stack.append(text)
    return stack


def is_open(code: str) -> bool:
    """Whether a bracket or quote that `code` opens is open at its end."""
    return any(mark not in CLOSING for mark in marks(code))


def closes(opened: list[str], closing: str) -> bool:
    """Whether `closing` closes what was opened last.

    Args:
        opened: from `marks`.
        closing: closing brackets and quotes, such as `")`.
    """
    each = re.findall(r'"""|\'\'\'|.', closing)
    wanted = [CLOSING.get(mark, mark) for mark in each]
    return opened[len(opened) - len(wanted) :][::-1] == wanted
