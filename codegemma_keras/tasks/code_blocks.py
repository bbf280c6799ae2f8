r"""The code in a model's answer: Markdown's fenced blocks, read as models write them.

Markdown says how a block is fenced, and models do not always keep to it. They leave the
last fence out, close a block that the prompt had opened, put a fence behind a sentence or
behind the last line of code, and indent a block with the list that it stands in. `blocks`
reads all of these, and `code_of` chooses.

Left out: blocks that are indented and not fenced, since a continuation of a function is
indented, too; and quotations (`> `).
"""

import dataclasses
import re
from collections.abc import Collection

PYTHON = frozenset({"", "python", "py", "python3"})
MARKDOWN = frozenset({"markdown", "md"})
# A fence that opens a block: at the start of a line, or behind a sentence.
_OPENS = re.compile(r"([^\n]*?)(`{3,}|~{3,})")
# What may stand behind it: a language, and perhaps what a program shall do with the block.
_INFO = re.compile(r"[ \t]*(?P<language>[\w+#.-]*)(?:[ \t]+(?:\{.*\}|\w+=.*))?\s*")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d+[.)])[ \t]+")
# Deeper than this, a fence belongs to the code: to a docstring, for example.
MOST_INDENTED = 3
# Lines that stand in Python and hardly in a sentence: indented ones and these words.
_CODE = re.compile(r"^(?:[ \t]+\S|(?:def|class|import|from|return)\s)", re.M)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        code: str, what stands in it, without the indentation that its fence has.
        language: str, the first word behind its fence in small letters, or "".
        closed: whether a fence ends it. The end of the text or a fence that opens the
            next block may end it as well.
        start: int, where in the text it begins.
    """

    code: str
    language: str
    closed: bool
    start: int


def code_of(answer: str, languages: Collection[str] = PYTHON) -> str:
    r"""The code of an answer: of one of its blocks, or all of it if there is none.

    The first block in one of the `languages` counts, or else the first of all. A block
    that was not closed counts up to its end. A first fence that closes what the prompt or
    nothing had opened ends the code, which then stands before it.

    Args:
        answer: str, what a model wrote.
        languages: words behind a fence in small letters; "" is a fence without a word.

    Examples:
        >>> code_of(
        ...     "Install it:\n```bash\npip install x\n```\n```python\nimport x\n```"
        ... )
        'import x\n'
        >>> code_of("def f():\n    return 1\n```\nThis is a function.")
        'def f():\n    return 1\n'
        >>> code_of("x = 1")
        'x = 1'
    """
    found = blocks(answer)
    if not found:
        return answer
    # Fences come in pairs, unless the first one closes.
    odd = not all(block.closed for block in found)
    if odd and not found[0].language and _CODE.search(answer[: found[0].start]):
        return answer[: found[0].start]
    wanted = [block for block in found if block.language in languages]
    chosen = (wanted or found)[0]
    if not wanted and chosen.language in MARKDOWN:
        return code_of(chosen.code, languages)
    return chosen.code


def blocks(text: str) -> list[Block]:
    r"""All fenced blocks of a text, in order.

    Examples:
        >>> [block.code for block in blocks("~~~\na\n~~~\nor\n```py\nb\n```")]
        ['a\n', 'b\n']
        >>> blocks("```\na")[0].closed
        False
    """
    found, place = [], 0
    while place < len(text):
        end = _end_of_line(text, place)
        fence = _opening(text[place:end])
        if fence is None:
            place = end
        elif fence.mark in fence.rest:  # all on one line
            inside, _, behind = fence.rest.partition(fence.mark)
            found.append(Block(inside, "", True, place))
            place = end - len(behind)
        else:
            block, place = _block(text, place + fence.column, end, fence)
            found.append(block)
    return found


@dataclasses.dataclass(frozen=True)
class _Fence:
    mark: str
    indent: int  # of the block
    column: int  # in its line, behind a sentence; else 0
    language: str
    rest: str  # code on the line of the fence


def _opening(line):
    """The `_Fence` of a line that opens a block, or None."""
    match = _OPENS.match(line)
    if match is None:
        return None
    before, mark = match.groups()
    rest = line[match.end() :]
    alone = not before.strip() or _ITEM.fullmatch(before)
    if mark[0] == "~" and not alone:
        return None  # as `~~~^~~` below an expression in a traceback
    place = (len(before), 0) if alone else (0, len(before))
    if info := _INFO.fullmatch(rest):
        return _Fence(mark, *place, info["language"].lower(), "")
    if mark[0] == "~" or not (alone or mark in rest):
        return None
    return _Fence(mark, *place, "", rest)


def _block(text, start, place, fence):
    """The block whose lines begin at `place`, and where it is over."""
    code, deeper = fence.rest, None
    while place < len(text):
        end = _end_of_line(text, place)
        line = text[place:end]
        closing = _closing(line, fence.mark)
        if closing is None:
            code += _without(line, fence.indent)
        elif not closing[0].strip() and len(closing[0]) > fence.indent + MOST_INDENTED:
            deeper = deeper or (code, end)
            code += _without(line, fence.indent)
        else:
            last, behind = closing
            code += _without(last, fence.indent) if last.strip() else ""
            info = _INFO.fullmatch(behind)
            opens = bool(info and info["language"])
            block = Block(code, fence.language, not opens, start)
            return block, place if opens else end
        place = end
    if deeper:  # Nothing else ends the block.
        return Block(deeper[0], fence.language, True, start), deeper[1]
    return Block(code, fence.language, False, start), place


def _closing(line, mark):
    """`(text before, text behind)` of a fence that may end a block, or None."""
    marks = re.escape(mark) + re.escape(mark[0]) + "*"
    found = re.match(rf"([ \t]*){marks}([^\n]*)", line)
    if found is None and mark[0] == "`":
        found = re.fullmatch(rf"(.*?\S){marks}()\s*", line)
    return found and found.groups()


def _without(line, indent):
    """A line without the indentation of its fence, as far as it has that."""
    width = len(line) - len(line.lstrip(" \t"))
    return line[min(width, indent) :]


def _end_of_line(text, place):
    end = text.find("\n", place)
    return len(text) if end < 0 else end + 1
