"""From import statements to the files they mean, by the rules of each family."""

import dataclasses
from collections.abc import Iterator

from codegemma_keras.data.languages import family
from codegemma_keras.data.order.facts import Facts
from codegemma_keras.data.order.families import FAMILIES
from codegemma_keras.data.order.repository import Repository


@dataclasses.dataclass(frozen=True)
class Target:
    """One file that one statement means.

    Attributes:
        path: str.
        kind: as `Import.kind`.
        uses: how often the importer mentions what it took.
        breadth: how many files the statement means in all.
    """

    path: str
    kind: str
    uses: int
    breadth: int


class Resolvers:
    """The resolvers of one repository, each made when its first file asks."""

    def __init__(self, repository: Repository):
        self._repository = repository
        self._of_family = {}

    def find_targets(self, facts: Facts) -> Iterator[Target]:
        """The files that a file's imports mean, itself left out."""
        group = family(facts.language)
        if group not in FAMILIES:
            return
        if group not in self._of_family:
            self._of_family[group] = FAMILIES[group].Resolver(self._repository)
        resolver = self._of_family[group]
        for entry, found in resolver.resolve(facts):
            found.pop(facts.path, None)
            for path, names in found.items():
                uses = sum(facts.uses.get(name, 0) for name in names)
                yield Target(path, entry.kind, uses, len(found))
