"""Java and Kotlin, which import each other: the declared package decides.

`import a.b.C` means the file of package `a.b` that declares `C`; of several (a
multiplatform library declares a class once per platform) the nearest. `import a.b.C.D`
and `import static a.b.C.d` mean C's file. `import a.b.*` means the files of `a.b` that
declare a name which the importer mentions outside of comments and strings.

Java sees a Kotlin file's functions in a class: `StringsKt`, or what `@file:JvmName` says.
"""

import re

from codegemma_keras.data.languages import split_name
from codegemma_keras.data.order.facts import Facts, Import
from codegemma_keras.data.order.repository import nearest
from codegemma_keras.data.order.syntax import Source, bare, text_of

QUERIES = {
    "java": """
        (package_declaration) @package
        (import_declaration) @import
        [(line_comment) (block_comment) (string_fragment)
         (character_literal)] @skip
        (program (_ name: (identifier) @declares))""",
    "kotlin": """
        (package_header (qualified_identifier) @package)
        (import) @import
        [(line_comment) (block_comment) (string_content)
         (character_literal)] @skip
        (file_annotation) @annotation
        (source_file (_ name: (identifier) @declares))
        (source_file (function_declaration name: (identifier) @functions))
        (source_file (property_declaration) @functions)
        (source_file (property_declaration
          (variable_declaration (identifier) @declares)))
        (source_file (property_declaration (multi_variable_declaration
          (variable_declaration (identifier) @declares))))
        (source_file (type_alias type: (identifier) @declares))""",
}
# The grammar loses declarations after some annotations, and all that follow an error:
# these are found again in the text outside of all brackets.
_KOTLIN_DECLARATION = re.compile(
    r"\b(?:class|interface|object|typealias)\s+`?(\w+)"
    r"|\b(?:fun|va[lr])\s+(?:<[^=\n]*?>\s*)?(?:[\w<>?,.*\t ]*\.\s*)?`?(\w+)"
)
_BRACKETS = re.compile(r"[({\[]|[)}\]]")
_JVM_NAME = re.compile(r'JvmName\s*\(\s*(?:name\s*=\s*)?"(\w+)"')


def read(source: Source) -> Facts:
    kotlin = source.language == "kotlin"
    imports = tuple((_kotlin if kotlin else _java)(source))
    package = tuple(
        bare(node) if kotlin else re.sub(r"^package|;$", "", bare(node))
        for node in source.nodes("package")[:1]
    )
    declares = {name.strip("`") for name in source.names("declares")}
    if kotlin:
        for pair in _KOTLIN_DECLARATION.findall(_outermost(source.code("skip"))):
            declares.add("".join(pair))
    if source.nodes("functions"):
        declares.add(split_name(source.path)[1].capitalize() + "Kt")
        for node in source.nodes("annotation"):
            declares.update(_JVM_NAME.findall(text_of(node)))
    words = source.words("skip", "package", "import") if imports else {}
    if not any(entry.names == ("*",) for entry in imports):
        wanted = sorted({name for entry in imports for name in entry.locals})
        words = {name: words[name] for name in wanted if name in words}
    return Facts(
        source.path,
        source.language,
        imports,
        package or ("",),
        frozenset(declares),
        dict(words),
    )


def _outermost(code):
    """The text outside of all brackets."""
    parts, place, depth = [], 0, 0
    for match in _BRACKETS.finditer(code):
        if match[0] in "({[":
            if not depth:
                parts.append(code[place : match.start()])
            depth += 1
        else:
            depth = max(0, depth - 1)
            place = match.end() if not depth else place
    return " ".join([*parts, code[place:] if not depth else ""])


def _java(source):
    for node in source.nodes("import"):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text_of(node), flags=re.S)
        text = re.sub(r"^import\s+(?:static\s+)?|;.*$", "", text.strip(), flags=re.S)
        yield _import(re.sub(r"\s", "", text))


def _kotlin(source):
    for node in source.nodes("import"):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text_of(node), flags=re.S)
        text = re.sub(r"^import\s+|[\s;]+$", "", text.strip())
        name, _, alias = text.partition(" as ")
        yield _import(re.sub(r"[\s`]", "", name), alias.strip(" `"))


def _import(name, alias=""):
    module, _, last = name.rpartition(".")
    if last == "*":
        return Import(module, ("*",))
    return Import(module, (last,), locals=(alias or last,))


class Resolver:
    """See the module."""

    def __init__(self, repository):
        self._files = repository.files
        self._by_package = repository.by_package
        # `{package: {name: files that declare it}}`.
        self._declared = {}
        for facts in repository.of_family("java"):
            for package in facts.package:
                names = self._declared.setdefault(package, {})
                for name in facts.declares:
                    names.setdefault(name, []).append(facts.path)

    def resolve(self, facts):
        for entry in facts.imports:
            if entry.names == ("*",) and entry.module in self._declared:
                yield entry, self._mentioned(facts, entry.module)
            else:
                names = () if entry.names == ("*",) else entry.names
                path = self._named(facts, [*entry.module.split("."), *names])
                yield entry, {path: entry.locals} if path else {}

    def _mentioned(self, facts, package):
        found = {}
        names = self._declared[package]
        # By the smaller of the two, so that a file of many words costs no more.
        for name in sorted(names.keys() & facts.uses.keys()):
            for path in names[name]:
                found.setdefault(path, []).append(name)
        return found

    def _named(self, facts, parts):
        """The file of `a.b.C.D.e`: that of C in package `a.b`, the longest package."""
        for end in range(len(parts) - 1, -1, -1):
            names = self._declared.get(".".join(parts[:end]), {})
            if found := names.get(parts[end]):
                return nearest(found, facts.path)
        return None
