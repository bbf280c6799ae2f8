"""What the graph needs to know of one file, a hundredth of its text."""

import dataclasses

# kind -> when the import is carried out.
KINDS = (
    "module",  # as the file is loaded
    "guarded",  # the same, inside `try` or `if`
    "deferred",  # inside a function
    "type",  # for type checkers only
    "child",  # Rust's `mod x;`: the parent names its parts
)


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of one module.

    Attributes:
        module: str, as written (`a.b`, `./x`, `a/b.h`, `crate::a::b`); without leading
            dots in Python.
        names: what is taken from it; `("*",)` for all; `()` for the module itself. For
            Rust's `mod x;`: the file of a `#[path]` attribute, if there is one.
        level: leading dots in Python; else 0.
        kind: one of `KINDS`.
        locals: names by which the file refers to it, for counting uses.
        quoted: False for C's `#include <...>`.
        everywhere: C#'s `global using`, which counts for the whole project.
    """

    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    kind: str = "module"
    locals: tuple[str, ...] = ()
    quoted: bool = True
    everywhere: bool = False


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the graph needs to know of one file.

    Attributes:
        path: str, in the repository.
        language: str, or `""`.
        imports: tuple of `Import`.
        package: its package or namespaces, as declared.
        declares: names declared at the top level, in the languages that import by name.
        uses: `{name: occurrences}` of the names that decide which files an import means
            and how important its edges are; in Go `package.Name`.
        build: what a build file says, see `build_files`; None for every other file.
    """

    path: str
    language: str = ""
    imports: tuple[Import, ...] = ()
    package: tuple[str, ...] = ()
    declares: frozenset[str] = frozenset()
    uses: dict = dataclasses.field(default_factory=dict)
    build: dict | None = None

    def to_json(self) -> dict:
        """A value for `json.dumps`; empty fields are left out."""
        value = {k: v for k, v in vars(self).items() if v not in ((), {}, "", None)}
        value["imports"] = [
            {
                field.name: getattr(entry, field.name)
                for field in dataclasses.fields(Import)
                if getattr(entry, field.name) != field.default
            }
            for entry in self.imports
        ]
        value["declares"] = sorted(self.declares)
        return {k: v for k, v in value.items() if v != []}

    @classmethod
    def from_json(cls, value: dict) -> "Facts":
        """The inverse of `to_json`, also after a trip through JSON."""
        imports = tuple(
            Import(**{k: tuple(v) if isinstance(v, list) else v for k, v in e.items()})
            for e in value.get("imports", ())
        )
        return cls(
            **{
                **value,
                "imports": imports,
                "package": tuple(value.get("package", ())),
                "declares": frozenset(value.get("declares", ())),
            }
        )
