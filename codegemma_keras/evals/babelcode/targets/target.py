"""What a language is to the translation: names, types, literals, comments, a program.

A program is the answer (prompt and completion) between `before` and `after`. `after` has
one call for each case. A call writes one line to descriptor 3: the case's number, a tab,
and the value as JSON, or `!` and what was raised. Sets are written as lists, maps as lists
of pairs.
"""

import dataclasses
import re
from collections.abc import Callable

from codegemma_keras.evals.babelcode.types import Type


@dataclasses.dataclass(frozen=True)
class Target:
    """One language.

    Attributes:
        types: by kind, the type's name; `{0}` and `{1}` are those of the items.
        values: by kind, a literal; `{type}` is its type, `{0}` and `{1}` those of the
            items, `{items}` the items.
        pair: an entry of a map's literal, of `{0}` and `{1}`.
        member: an item of a set's literal, of `{0}`.
        style: of names: `camel`, `pascal` or `snake`.
        reserved: names that mean something else, in one text.
        parameter: one parameter, of `{type}` and `{name}`.
        signature: the prompt's last line, of `{returns}`, `{name}`, `{parameters}`.
        head: what stands before the comment.
        comment: text to a comment.
        words: what texts call things, by the words to be replaced.
        stops: where an answer ends.
        close: what an answer lacks that was cut at a stop.
        before: program text before the answer.
        after: program text after it; `CALLS` stands for the calls.
        call: one call, of `{case}`, `{name}`, `{arguments}`, `{returns}`.
        character: a control character in a text, of its number.
        escapes: further characters that a text's literal must escape.
    """

    types: dict
    values: dict
    pair: str
    style: str
    reserved: str
    parameter: str
    signature: str
    comment: Callable[[str], str]
    words: dict
    stops: tuple[str, ...]
    before: str
    after: str
    call: str
    head: str = ""
    close: str = ""
    character: str = "\\u{:04x}"
    escapes: str = ""
    member: str = "{0}"

    def type(self, type_: Type) -> str:
        """The name of a type."""
        return self.types[type_.kind].format(*map(self.type, type_.of))

    def literal(self, type_: Type, value) -> str:
        """A value as this language writes it."""
        kind, form = type_.kind, self.values.get(type_.kind, "{items}")
        if kind == "boolean":
            text = form.format(items=str(value).lower())
        elif kind == "float":
            text = form.format(items=repr(float(value)))
        elif kind == "string":
            text = form.format(items=self._quoted(value))
        elif kind in ("integer", "long"):
            text = form.format(items=value)
        else:
            names = [self.type(part) for part in type_.of]
            if kind == "map":
                items = [
                    self.pair.format(*map(self.literal, type_.of, entry))
                    for entry in value.items()
                ]
            else:
                ordered = sorted(value) if kind == "set" else value
                form_of_item = self.member if kind == "set" else "{0}"
                items = [
                    form_of_item.format(self.literal(type_.of[0], item))
                    for item in ordered
                ]
            text = form.format(*names, type=self.type(type_), items=", ".join(items))
        return text

    def _quoted(self, text):
        usual = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
        written = []
        for letter in text:
            if letter in usual:
                written.append(usual[letter])
            elif letter in self.escapes:
                written.append("\\" + letter)
            elif ord(letter) < 32 or ord(letter) == 127:
                written.append(self.character.format(ord(letter)))
            else:
                written.append(letter)
        return '"' + "".join(written) + '"'

    def function(self, name: str) -> str:
        """A function's name in this language's style."""
        words = [word for word in name.split("_") if word]
        if self.style == "snake" or not words:
            return name
        first, *rest = words
        if self.style == "pascal":
            first = first[0].upper() + first[1:]
        return first + "".join(word[0].upper() + word[1:] for word in rest)

    def variable(self, name: str) -> str:
        """A parameter's name, which must not mean something else."""
        if self.style != "snake":
            name = re.sub(r"(?<=[a-z0-9])_([a-z0-9])", lambda m: m[1].upper(), name)
        return f"{name}_" if name in self.reserved.split() else name

    def described(self, text: str) -> str:
        """A text in the words of this language."""
        for word, others in self.words.items():
            pattern = rf"\b({'|'.join(others)})(s?)\b"
            text = re.sub(
                pattern, lambda m, w=word: w + m[2], text, flags=re.IGNORECASE
            )
        return text


def block_comment(indent=""):
    """Comments of the C family."""

    def comment(text):
        lines = text.replace("*/", "* /").split("\n")
        body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
        return f"{indent}/**\n{body}{indent} */\n"

    return comment


def line_comment(mark):
    """A comment of whole lines."""
    return lambda text: "".join(f"{mark} {x}".rstrip() + "\n" for x in text.split("\n"))
