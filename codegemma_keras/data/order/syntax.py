"""One parsed file: the nodes that a language's query finds, and the words of its code."""

import collections
import dataclasses
import functools
import re

from codegemma_keras.data.document import require
from codegemma_keras.data.languages import parser

WORD = re.compile(r"[^\W\d]\w*")


@functools.cache
def _query(language, text):
    return require("tree_sitter").Query(parser(language).language, text)


@dataclasses.dataclass
class Source:
    """A file under its query.

    Attributes:
        text: str, the file.
        found: `{capture name: nodes, in order}`.
    """

    path: str
    language: str
    text: str
    found: dict

    @classmethod
    def parse(cls, path, language, text, query, top_lines=None):
        """Parse the file, or its first `top_lines` lines; words are those of all lines."""
        head = text if top_lines is None else _head(text, top_lines)
        tree = parser(language).parse(head.encode("utf-8", "surrogatepass"))
        cursor = require("tree_sitter").QueryCursor(_query(language, query))
        found = cursor.captures(tree.root_node)
        for nodes in found.values():
            nodes.sort(key=lambda node: node.start_byte)
        return cls(path, language, text, found)

    def nodes(self, *names):
        """The nodes of several captures, in the order of the file."""
        if len(names) == 1:
            return self.found.get(names[0], [])
        nodes = [node for name in names for node in self.found.get(name, ())]
        return sorted(nodes, key=lambda node: node.start_byte)

    def names(self, capture) -> frozenset[str]:
        return frozenset(text_of(node) for node in self.nodes(capture))

    def code(self, *left_out) -> str:
        """The text without the nodes of these captures: comments, strings, imports."""
        data = self.text.encode("utf-8", "surrogatepass")
        parts, place = [], 0
        for node in self.nodes(*left_out):
            if node.start_byte >= place:
                parts.append(data[place : node.start_byte])
                place = node.end_byte
        parts.append(data[place:])
        return b" ".join(parts).decode("utf-8", "replace")

    def uses(self, imports) -> dict[str, int]:
        """How often the file mentions the names that its imports give to something."""
        wanted = {name for entry in imports for name in entry.locals}
        words = self.words() if wanted else {}
        return {word: words[word] for word in sorted(wanted) if word in words}

    def words(self, *left_out) -> collections.Counter:
        """How often each word occurs, outside of the nodes of these captures."""
        return collections.Counter(WORD.findall(self.code(*left_out)))


def _head(text, lines):
    place = 0
    for _ in range(lines):
        place = text.find("\n", place) + 1
        if not place:
            return text
    return text[:place]


def text_of(node) -> str:
    return node.text.decode("utf-8", "replace")


def bare(node) -> str:
    """The text of a node without white space."""
    return re.sub(r"\s", "", text_of(node))
