"""Places in real files as people type there, each editor in a file of its own.

Imports nothing but the standard library, whose source the files are.
"""

import importlib.util
import pathlib

TYPED = "values = [parser.parse(item) for item in items if item]"
# One for each editor, of 400 lines and more in every supported version of Python.
FILES = (
    "argparse", "ast", "calendar", "configparser", "dataclasses", "difflib", "doctest",
    "enum", "functools", "gettext", "heapq", "imaplib", "inspect", "ipaddress", "locale",
    "mailbox",
)  # fmt: skip


def source(editor=0):
    """The first 400 lines of an editor's file."""
    if editor >= len(FILES):
        raise ValueError(
            f"There are files for {len(FILES)} editors, not for {editor + 1}; name more "
            "in benchmarks/_strokes.py."
        )
    path = pathlib.Path(importlib.util.find_spec(FILES[editor]).origin)
    text = path.read_text(encoding="utf-8")
    return "\n".join(text.split("\n")[:400]) + "\n"


def keystrokes(text, count):
    """`(kind, prefix, suffix)` after each keystroke."""
    lines = text.split("\n")
    line, typed = 200, 0
    cursor = len("\n".join(lines[:line]))  # at the end of a line
    for number in range(count):
        if number % 20 in (0, 1):
            # Every 20 strokes: a line up, a line up.
            kind = "move up"
            start = text.rfind("\n", 0, cursor)
            cursor = text.rfind("\n", 0, start) if start > 0 else cursor
            cursor = text.find("\n", cursor + 1)
        elif number % 20 == 2:
            kind = "newline"
            start = text.rfind("\n", 0, cursor) + 1
            indent = len(text[start:cursor]) - len(text[start:cursor].lstrip())
            new = "\n" + " " * indent
            text = text[:cursor] + new + text[cursor:]
            cursor += len(new)
        elif number % 20 in (10, 11):
            kind = "delete"
            text = text[: cursor - 1] + text[cursor:]
            cursor -= 1
        else:
            kind = "type"
            text = text[:cursor] + TYPED[typed % len(TYPED)] + text[cursor:]
            typed, cursor = typed + 1, cursor + 1
        yield kind, text[:cursor], text[cursor:]


def places(editor, count, lines):
    """`(prefix, suffix)` after each keystroke of an editor, `lines` on each side.

    Whole lines, as editors cut: so the beginning stays while a line is typed.
    """
    for _, prefix, suffix in keystrokes(source(editor), count):
        before = prefix.splitlines(keepends=True)[-lines:]
        after = suffix.splitlines(keepends=True)[:lines]
        yield "".join(before), "".join(after)
