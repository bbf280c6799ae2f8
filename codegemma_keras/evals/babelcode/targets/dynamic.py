"""JavaScript and Python."""

import dataclasses

from codegemma_keras.evals.babelcode.targets.compiled import ARRAY, MAP, NULL
from codegemma_keras.evals.babelcode.targets.target import Target, block_comment

JAVASCRIPT = Target(
    types=dict.fromkeys(
        ("boolean", "integer", "long", "float", "string", "list", "set", "map"), ""
    ),
    values={
        "list": "[{items}]",
        "set": "new Set([{items}])",
        "map": "new Map([{items}])",
    },
    pair="[{0}, {1}]",
    style="camel",
    reserved="var function in new class default case switch do delete this void const "
    "let export import yield with eval arguments interface package",
    parameter="{name}",
    signature="function {name}({parameters}) {{",
    comment=block_comment(),
    words={"array": ARRAY, "map": MAP, "JavaScript": ("Python",), **NULL},
    stops=("\nfunction ", "\n/*", "\n//"),
    before="",
    call="answersCall({case}, () => {name}({arguments}));\n",
    after=r"""
function answersPlain(v) {
  if (v instanceof Map) return [...v].map((pair) => pair.map(answersPlain));
  if (v instanceof Set) return [...v].map(answersPlain);
  if (Array.isArray(v)) return v.map(answersPlain);
  if (typeof v === "bigint") return Number(v);
  if (v !== null && typeof v === "object") {
    return Object.entries(v).map(([k, x]) => [KEYS(k), answersPlain(x)]);
  }
  return v === undefined ? null : v;
}
function answersCall(number, f) {
  let text;
  try { text = JSON.stringify(answersPlain(f())); }
  catch (e) { text = "!" + String(e).replaceAll("\n", " "); }
  require("fs").writeSync(3, number + "\t" + text + "\n");
}
CALLS""",
)


def _docstring(text):
    text = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return "\n    ".join(text.split("\n"))


@dataclasses.dataclass(frozen=True)
class PythonTarget(Target):
    """Python keeps its own values: a tuple stays one."""

    def literal(self, type_, value):
        return repr(value)


PYTHON = PythonTarget(
    types={
        "boolean": "bool",
        "integer": "int",
        "long": "int",
        "float": "float",
        "string": "str",
        "list": "List[{0}]",
        "set": "Set[{0}]",
        "map": "Dict[{0}, {1}]",
    },
    values={},
    pair="",
    style="snake",
    reserved="",
    parameter="{name}: {type}",
    signature='def {name}({parameters}) -> {returns}:\n    """{text}"""',
    comment=_docstring,
    words={},
    stops=("\ndef", "\n#", "\nif", "\nclass"),
    before="from typing import *\n\n",
    call="_call({case}, lambda: {name}({arguments}))\n",
    after=r"""


def _plain(value):
    if isinstance(value, dict):
        return [[_plain(k), _plain(v)] for k, v in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return value


def _call(number, function):
    import json

    try:
        text = json.dumps(_plain(function()))
    except Exception as error:
        text = "!" + f"{type(error).__name__}: {error}".replace("\n", " ")
    print(number, text, sep="\t", file=_file, flush=True)


_file = open("/dev/fd/3", "w")
CALLS""",
)
