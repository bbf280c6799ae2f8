"""The OpenAPI page: what can be asked, made from the bodies' own types."""

import inspect

from pydantic.json_schema import models_json_schema

import codegemma_keras


def document(endpoints) -> dict:
    """An OpenAPI 3.1 document.

    Args:
        endpoints: `(method, path, summary, body types)` each; several types are
            alternatives.
    """
    types = {t for *_, bodies in endpoints for t in bodies}
    ordered = sorted(types, key=lambda t: t.__name__)
    references, definitions = models_json_schema(
        [(t, "validation") for t in ordered],
        ref_template="#/components/schemas/{model}",
    )
    paths = {}
    for method, path, summary, bodies in endpoints:
        operation = {
            "summary": summary,
            "responses": {
                "200": {"description": "What was asked for."},
                "4XX": {"description": "What is wrong with the request."},
                "503": {"description": "Loading, or too much is waiting; try later."},
            },
        }
        if bodies:
            schemas = [references[t, "validation"] for t in bodies]
            schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            operation["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema}},
            }
        paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "codegemma serve",
            "version": codegemma_keras.__version__,
            "description": "Code completion, in the APIs that editors speak.",
        },
        "paths": paths,
        "components": {"schemas": definitions.get("$defs", {})},
    }


def summary(thing) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]
