"""The options of a request in the signatures of the methods that take them."""

import dataclasses
import difflib
import functools
import inspect

from codegemma_keras.decoding.request import (
    CURSOR_OPTIONS,
    OPTIONS,
    Cursor,
    Request,
)
from codegemma_keras.decoding.sampling import Sampling

SAMPLING = {field.name for field in dataclasses.fields(Sampling)}


def takes_options(method):
    """Show the options of a request in the signature of a method with `**options`.

    So that Shift-Tab in a notebook and `help()` list them with their defaults, and a
    misspelt one is refused with the nearest name.
    """
    own = inspect.signature(method)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=field.type,
        )
        for cls, names in ((Cursor, CURSOR_OPTIONS), (Request, OPTIONS))
        for field in dataclasses.fields(cls)
        if field.name in names
    ]
    shown = [p for p in own.parameters.values() if p.kind != p.VAR_KEYWORD]
    known = {p.name for p in (*shown, *options)}

    @functools.wraps(method)
    def checked(*args, **kwargs):
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.5)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                if name in SAMPLING:
                    hint = f" Give sampling=Sampling({name}={kwargs[name]!r})."
                raise TypeError(f"{method.__name__}() has no option {name!r}.{hint}")
        return method(*args, **kwargs)

    checked.__signature__ = own.replace(parameters=[*shown, *options])
    return checked
