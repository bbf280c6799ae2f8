"""A frozen dataclass as a command line: every field an option, with its own type."""

import argparse
import dataclasses
import types
import typing


def parse(config_class, description, argv=None):
    """Settings from the command line.

    Args:
        config_class: a dataclass whose fields are str, int, float, bool, tuples of str,
            or one of them `| None`.
        description: str, shown by `--help`.
        argv: list of str; default: the program's own.
    """
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,  # or a new field could change what an old command means
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        kind = hints[field.name]
        if isinstance(kind, types.UnionType):
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        name = "--" + field.name.replace("_", "-")
        about = {"default": field.default, "help": " "}  # a space: shows the default
        if kind is bool:
            about["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            about["nargs"] = "*"
        else:
            about["type"] = kind
        parser.add_argument(name, **about)
    options = vars(parser.parse_args(argv))
    for name, value in options.items():
        if isinstance(value, list):
            options[name] = tuple(value)
    return config_class(**options)
