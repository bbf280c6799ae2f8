"""One module per family of languages that import each other, each with one interface:

    QUERIES             {language: tree-sitter query of what matters in a file}
    read(source)        a parsed file -> `Facts`
    Resolver(repository).resolve(facts)
                        yields (import, {path: names by which the importer uses that file})

A resolver is made once per repository. It names only files that the language would load;
`find_targets` counts the uses and leaves the importer itself out.
"""

from codegemma_keras.data.order.families import (
    cpp,
    csharp,
    go,
    javascript,
    jvm,
    python,
    rust,
)

FAMILIES = {
    "python": python,
    "javascript": javascript,
    "java": jvm,
    "go": go,
    "rust": rust,
    "cpp": cpp,
    "csharp": csharp,
}
