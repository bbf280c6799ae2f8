"""What is wrong with a body, in a sentence. Pydantic's own messages speak of its types."""

import json

import pydantic

# Kinds of faults of Pydantic -> what was wanted.
WANTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
# Characters of a value that are shown.
SHOWN = 60


def sentence(error: pydantic.ValidationError, body: dict) -> str:
    """The first fault, at its place.

    A field that may have several types has one fault for each. They are joined, and what is
    wrong inside a list comes before "it is no string".
    """
    places = [
        (_place(fault["loc"], body), fault)
        for fault in error.errors(include_url=False, include_input=False)
    ]
    name, value = max((place for place, _ in places), key=lambda p: _depth(p[0]))
    faults = [fault for (other, _), fault in places if other == name]
    for fault in faults:
        if fault["type"] == "missing":
            missing = f"{name}.{fault['loc'][-1]}".lstrip(".")
            return f"The field `{missing}` is missing."
    wanted = list(dict.fromkeys(_wanted(fault) for fault in faults))
    return f"The field `{name}` must be {' or '.join(wanted)}, but is {_shown(value)}."


def _shown(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _wanted(fault):
    if fault["type"] == "greater_than_equal":
        return f"at least {fault['ctx']['ge']}"
    return WANTED.get(fault["type"], f"valid ({fault['msg']})")


def _place(parts, value):
    """`(name, value)` of a place; Pydantic also names the types that it has tried."""
    name = ""
    for part in parts:
        if isinstance(part, int) and isinstance(value, list):
            name, value = f"{name}[{part}]", value[part]
        elif isinstance(value, dict) and part in value:
            name, value = f"{name}.{part}", value[part]
    return name.lstrip("."), value


def _depth(name):
    return name.count(".") + name.count("[")
