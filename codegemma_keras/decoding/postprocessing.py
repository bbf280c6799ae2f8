"""Fitting a completion in between the text before the cursor and the text after it.

A model often writes again what is there already. These rules, each a pure function on
text, are those of good editor plug-ins:

* what the cursor's line holds is not repeated; text on a blank line begins where the
  cursor's indentation ends;
* text on an empty line is indented as an editor would indent it, if the model was never
  taught to fill in (`missing_indentation`);
* the first line of the suffix is not written once more;
* text ends before a bracket that closes nothing;
* brackets and quotes that the suffix closes are not closed twice;
* a line end is dropped where the suffix begins with one;
* line ends are those of the file.

They apply in this order. The command line and editors use them (`tidy=True`); `infill`
and `complete` give the model's own text unless told so, since whoever measures a model
wants that.
"""

import dataclasses
import re
from collections.abc import Sequence

from codegemma_keras.decoding.brackets import (
    closes,
    holds_open,
    is_open,
    marks,
    needless,
    opened_above,
)
from codegemma_keras.decoding.stops import indentation, opens_block, overlap, same_line

# Shorter pieces of text repeat everywhere.
LEAST_REPEATED = 3
# What no line says twice: statements and comments by their first word, and what is named
# before a value, as in `x =`, `x: int =`, `x[0] +=` or `"a":`.
_STATEMENT = re.compile(
    r"(?:return|import|from|def|class|for|while|if|elif|else|with|try|except|finally|"
    r"assert|raise|del|global|nonlocal)\b"
    r"|(?:let|var|const|function|func|fn|package|public|private|static)\s+\w"
    r"|(?:#|//)\s*\w"
)
_NAMED = re.compile(
    r"[\w.]+(?:\[[^\]]*\])?\s*(?::[^=]*)?(?:[-+*/%&|^@:]|//|\*\*|<<|>>)?="
    r"|(?:\"[^\"]*\"|'[^']*'|[\w.-]+)\s*:"
)
_ENDS_BLOCK = re.compile(r"\s*(return|raise|break|continue|pass)\b")


@dataclasses.dataclass(frozen=True)
class Tidying:
    """All rules, for the text between a prefix and a suffix."""

    prefix: str
    suffix: str
    # What is open where the cursor's line begins: a long file is read once, not for every
    # token.
    _opened: tuple[str, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_opened", opened_above(self.prefix))

    def whole(self, text: str) -> str:
        """A finished completion by all rules."""
        text = without_line_start(self.prefix, text, self._opened)
        text = without_needless_brackets(self.prefix, text, self._opened)
        text = without_suffix_line(self.prefix, text, self.suffix)
        text = without_closed_brackets(self.prefix, text, self.suffix, self._opened)
        text = without_line_end(text, self.suffix)
        return with_line_ends(self.prefix + self.suffix, text)

    def certain(self, text: str) -> str:
        """What of an unfinished completion no later text can change, by the rules."""
        if _may_begin_again(self.prefix, text):
            return ""
        begun = without_line_start(self.prefix, text, self._opened)
        dropped = len(text) - len(begun)
        begun = without_needless_brackets(self.prefix, begun, self._opened)
        text = text[:dropped] + begun
        stripped = text.rstrip()
        end = len(stripped)
        rest, following = _suffix_lines(self.suffix)
        for shown in (text, stripped):
            for repeated in (rest, rest.strip()):
                end = min(end, len(shown) - overlap(shown, repeated))
        if following:  # the last line may turn out to be the suffix's
            line = stripped.rfind("\n")
            if line >= 0:
                end = min(end, line)
            elif following.strip().startswith(stripped[dropped:].strip()):
                return ""
        # What ends in white space or closing marks may lose them.
        certain = text[:end].rstrip(" \t\r\n)]}\"'`")[dropped:]
        return with_line_ends(self.prefix + self.suffix, certain)


def _may_begin_again(prefix, text):
    """Whether unfinished text may turn out to repeat the cursor's line."""
    line = _cursor_line(prefix)
    begun = text.lstrip(" \t")
    # The character behind a repetition says whether it is one, as in `x =` and `x ==`.
    return bool(line.strip()) and (
        line.startswith(text) or line.strip().startswith(begun)
    )


def without_line_start(
    prefix: str, text: str, opened: Sequence[str] | None = None
) -> str:
    r"""Without a repetition of what the cursor's line already holds.

    prefix "...\n        "      text "        return x"     "return x"
    prefix "...\n    retur"     text "    return x"         "n x"
    prefix "...\n    return"    text "return x"             " x"
    prefix "...\n    return "   text "return x"             "x"
    prefix "...\n    return "   text "  x"                  "x"

    Args:
        prefix: the text before the cursor.
        text: the completion.
        opened: from `opened_above(prefix)`, if it is at hand.
    """
    line = _cursor_line(prefix)
    code = line.strip()
    if not code:
        return _indented(prefix, line, text, opened)
    said = len(code) >= LEAST_REPEATED  # Shorter code may well be meant twice.
    if said and line[0].isspace() and text.startswith(line):
        return text[len(line) :]
    started = line.lstrip()
    # Only where the two would run together into one word.
    word = _is_word(started[-1]) and _is_word(started[0])
    if said and word and text.startswith(started):
        return text[len(started) :]
    if (rest := _after_code(code, text.lstrip(" \t"))) is not None:
        text = rest
    return text.lstrip(" \t") if line[-1] in " \t" else text


def _after_code(code, text):
    """What stands behind the code of the cursor's line in text that says it again.

    None where it does not, or where a line may well hold the code twice: calls nest,
    `not not x` and `- -x` have a meaning, and `x == 1` does not repeat `x =`. No line says
    `return return` or `x = x = 1`, and no comment begins anew.
    """
    if not text.startswith(code):
        return None
    if not (_STATEMENT.match(code) or _NAMED.fullmatch(code)):
        return None
    rest = text[len(code) :]
    if _is_word(code[-1]):
        goes_on = rest[:1] and _is_word(rest[0])
    else:
        goes_on = code[-1] in "=:" and rest[:1] in tuple("=:>")
    return None if goes_on else rest


def _cursor_line(prefix):
    return prefix[prefix.rfind("\n") + 1 :]


def _indented(prefix, line, text, opened):
    """The text on a blank line, begun there and where the cursor's indentation ends.

    Indentation is added to the cursor's where the line above opens a block that the cursor
    is not in yet, where the cursor stands between two levels and the text goes on to the
    next one, and where there is no line above.
    """
    if line or not prefix or prefix.endswith(("\n\n", "\n\r\n")):
        text = text.lstrip("\r\n")  # The line is blank already.
    if not line or text[:1] not in (" ", "\t"):
        return text
    head = prefix[: len(prefix) - len(line)]
    above = head.rstrip()
    above = above[above.rfind("\n") + 1 :]
    opened = opened_above(prefix) if opened is None else opened
    opens = opens_block(above) or holds_open(opened)
    column, depth = len(line.expandtabs(8)), indentation(above)
    if opens and column <= depth:
        return text
    level = depth + len(_step(depth)) * opens
    added = indentation(text.split("\n", 1)[0])
    if column < level == column + added and not _is_level(head, line):
        return text
    if opens or not above or column < depth:
        return text.removeprefix(line)
    return text.lstrip(" \t")


def _is_level(head, space):
    """Whether a line above begins with just so much white space."""
    return re.search(rf"^{space}(?=\S)", head, re.MULTILINE) is not None


def missing_indentation(prefix: str, suffix: str) -> str:
    r"""The white space with which an editor would begin the cursor's line.

    A model that continues text knows of the line only what comes before it. At the
    beginning of an empty line it likes to begin a comment or a function, even where the
    lines around are indented. So the line is indented as the one above; more, if that
    one opens a block; less, if it ends one, as `return` does.

    prefix "def f():\n"             suffix ""                       "    "
    prefix "    y = 0\n"            suffix "\n    return y\n"       "    "
    prefix "        return 0\n"     suffix "\n        return 1\n"   "    "
    prefix "    y = 0\n\n\n"        suffix "\ndef g():\n"           ""

    Returns:
        "" where the line holds anything already, or where text follows on it.
    """
    head = prefix.rstrip()
    rest, *lines = suffix.split("\n")
    if not head or prefix[-1] != "\n" or rest.strip():
        return ""
    above = head[head.rfind("\n") + 1 :]
    space = above[: len(above) - len(above.lstrip())]
    below = next((line for line in lines if line.strip()), "")
    depth, depth_below = indentation(above), indentation(below)
    step = "\t" if "\t" in space + below[:1] else _step(depth, depth_below)
    if opens_block(above):
        return space + step
    if is_open(head):
        return space
    if _ENDS_BLOCK.match(above):
        return space.removesuffix(step)
    apart = prefix[len(head) :].count("\n") > 2
    return "" if apart and depth_below < depth else space


def _step(*depths):
    """What one level of a file is indented by, from some of its lines."""
    return " " * (2 if any(depth % 4 == 2 for depth in depths) else 4)


def _is_word(character):
    return character.isalnum() or character == "_"


def without_suffix_line(prefix: str, text: str, suffix: str) -> str:
    r"""Without the suffix's first line, if the completion ends with it.

    text "sum(v) / len(v)"            suffix " / len(v)\n"        "sum(v)"
    text "x = 1\n    return x"        suffix "\n    return x\n"   "x = 1"

    A whole line counts only at the column of the suffix's: the same words in a deeper block
    are another statement.
    """
    rest, following = _suffix_lines(suffix)
    cursor_line = prefix[prefix.rfind("\n") + 1 :]
    stripped = text.rstrip()
    start = stripped.rfind("\n") + 1
    last = stripped[start:] if start else cursor_line + stripped
    if len(rest.strip()) >= LEAST_REPEATED:
        begun = cursor_line + rest  # the line that the suffix ends
        if last.strip() == begun.strip() and not same_line(last, begun):
            return text
        if text.endswith(rest):
            return text[: -len(rest)]
        if stripped.endswith(rest.strip()):
            kept = stripped[: -len(rest.strip())]
            return kept.rstrip(" \t") if rest[0].isspace() else kept
        return text
    if len(following.strip()) < LEAST_REPEATED or not same_line(last, following):
        return text
    if start == 0 and cursor_line.strip():
        return text  # the end of a line that the user began
    return text[:start].rstrip()


def _suffix_lines(suffix):
    """The rest of the cursor's line; if that says little, the next one, too."""
    rest, *lines = suffix.split("\n")
    rest = rest.removesuffix("\r")
    following = next((line.rstrip() for line in lines if line.strip()), "")
    says_little = len(rest.strip()) < LEAST_REPEATED
    return rest, following if says_little else ""


def without_closed_brackets(
    prefix: str, text: str, suffix: str, opened: Sequence[str] | None = None
) -> str:
    r"""Without brackets and quotes at its end that the suffix closes once more.

    prefix "f("       text "x, y)"    suffix ")\n"      "x, y"
    prefix 'print("'  text 'hi")'     suffix '")\n'     'hi'
    prefix "f("       text "g(x)"     suffix ")\n"      "g(x)"

    Args:
        prefix, suffix: the text before and after the cursor.
        text: the completion.
        opened: from `opened_above(prefix)`, if it is at hand.
    """
    closing = re.match(r"[)\]}\"'`]*", suffix.lstrip())[0]
    stripped = text.rstrip()
    if not closing or not stripped or stripped[-1] not in closing:
        return text
    before = _cursor_line(prefix)
    opened = opened_above(prefix) if opened is None else opened
    if closes(marks(before + text, opened), closing):
        return text
    for size in range(len(closing), 0, -1):
        kept = stripped[:-size]
        if stripped.endswith(closing[:size]) and closes(
            marks(before + kept, opened), closing
        ):
            return kept.rstrip() if suffix[0].isspace() else kept
    return text


def without_needless_brackets(
    prefix: str, text: str, opened: Sequence[str] | None = None
) -> str:
    """What stands before the first bracket that closes nothing.

    prefix "f("    text "x))"                  "x)"
    prefix "x = "  text "(a * 9) + 32) * 5"    "(a * 9) + 32"

    Args:
        prefix: the text before the cursor.
        text: the completion.
        opened: from `opened_above(prefix)`, if it is at hand.
    """
    if not re.search(r"[)\]}]", text):
        return text
    opened = opened_above(prefix) if opened is None else opened
    start, line = len(prefix), prefix.rfind("\n") + 1
    place = needless(prefix + text, start, opened, line)
    return text if place is None else text[: place - start].rstrip(" \t")


def without_line_end(text: str, suffix: str) -> str:
    r"""Without line ends at its end, if the suffix begins with one.

    text "return x\n\n"    suffix "\n\ndef f():"    "return x"
    """
    if not suffix.startswith(("\n", "\r\n")):
        return text
    stripped = text.rstrip()
    return stripped if "\n" in text[len(stripped) :] else text


def with_line_ends(file: str, text: str) -> str:
    """With the line ends that most lines of the file have; as it is if it has none."""
    windows, all_ends = file.count("\r\n"), file.count("\n")
    if not all_ends:
        return text
    return re.sub(r"\r?\n", "\r\n" if 2 * windows > all_ends else "\n", text)
