"""All that decides what a build makes, besides the sources and the tokenizer."""

import dataclasses

from codegemma_keras.data.clean import dedup
from codegemma_keras.data.clean.licences import PERMISSIVE
from codegemma_keras.data.document import MAX_FILE_BYTES
from codegemma_keras.data.languages import CODE, LANGUAGES, family
from codegemma_keras.data.order import imports
from codegemma_keras.data.rows.fim_split import FimSettings

_FIM = FimSettings()


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the output, besides the sources and the tokenizer.

    Attributes:
        length: T, tokens of a row. CodeGemma's context is 8192.
        languages: to keep.
        licences: to keep; None keeps all. `""` is an unknown licence.
        secrets: `"replace"`, `"drop"` or `"keep"`, see `secrets.clean_documents`.
        threshold: Jaccard similarity of near duplicates; 0 keeps them.
        benchmarks: paths of files for `decontaminate.read_tasks`.
        top_lines: lines read for imports; None: all.
        max_file_bytes: larger files are left out.
        fim: rates, see `FimSettings`; its seed also shuffles the rows.
        shard_bytes: of tokens in one shard, about.

    Examples:
        >>> Settings(languages=("python",), length=4096).threshold
        0.38
    """

    length: int = 8192
    languages: tuple[str, ...] = CODE
    licences: tuple[str, ...] | None = tuple(sorted(PERMISSIVE))
    secrets: str = "replace"
    threshold: float = dedup.THRESHOLD
    benchmarks: tuple[str, ...] = ()
    top_lines: int | None = imports.TOP_LINES
    max_file_bytes: int = MAX_FILE_BYTES
    fim: FimSettings = _FIM
    shard_bytes: int = 64_000_000

    def __post_init__(self):
        if self.length < 64:
            raise ValueError(
                f"length={self.length} tokens is too short; use 64 or more."
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be between 0 and 1.")
        unknown = sorted(set(self.languages) - set(LANGUAGES))
        if unknown:
            raise ValueError(
                f"Unknown languages {unknown}; known are {sorted(LANGUAGES)}."
            )

    def rows_per_shard(self) -> int:
        return max(1, self.shard_bytes // (4 * self.length))

    def languages_read(self) -> frozenset[str]:
        """The languages to keep, and those that import them or are imported by them."""
        families = {family(name) for name in self.languages}
        return frozenset(name for name in LANGUAGES if family(name) in families)


def is_build_file(path: str) -> bool:
    """Whether a file says what a repository's imports mean, such as go.mod."""
    return imports.tells_order(path, "")
