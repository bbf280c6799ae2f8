"""Magics for notebooks: `%%infill` completes a cell, `%codegemma` says with which model.

    %load_ext codegemma_keras.notebook

    %codegemma smollm2_135m_code

    %%infill
    def mean(values):
        return <cursor> / len(values)

The completed cell is shown, and stands ready as the next cell. `<cursor>` may be left
out: then the end of the cell is completed. Cells that ran before are shown to the model.
"""

import difflib
import shlex

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Completion
from codegemma_keras.server.settings import DEFAULT_PRESET

CURSOR = "<cursor>"
OPTIONS = ("max_new_tokens", "until")


class Magics:
    """The state behind the magics: one model, loaded when it is first needed.

    Args:
        shell: IPython's `InteractiveShell`.
    """

    def __init__(self, shell):
        self._shell = shell
        self._preset = DEFAULT_PRESET
        self._lm = None
        self._session = None

    def codegemma(self, line: str) -> str:
        """`%codegemma [PRESET]`: use a preset; without one, say which is used."""
        preset = line.strip()
        if preset and preset != self._preset:
            self._preset, self._lm = preset, None
        return self._preset

    def infill(self, line: str, cell: str) -> Completion:
        """`%%infill [max_new_tokens=64] [until=block]`: complete the cell.

        Raises:
            ValueError: an unknown option; more than one cursor.
        """
        options = _options(line)
        prefix, suffix = _cut(cell)
        before = self._shell.user_ns.get("In", [])[:-1]
        context = [
            (f"cell_{number}.py", text)
            for number, text in enumerate(before)
            if text and not text.lstrip().startswith(("%", "!", "get_ipython"))
        ]
        completion = self._model().complete(
            prefix, suffix, context=context, tidy=True, **options
        )
        self._shell.set_next_input(prefix + completion.text + suffix, replace=False)
        return completion

    def use(self, lm) -> None:
        """Complete with a model that is loaded already."""
        self._lm, self._session = lm, lm.session()

    def _model(self):
        if self._lm is None:
            self.use(CodeGemmaCausalLM.from_preset(self._preset))
        return self._session


def _options(line):
    options = {"until": "block"}
    for word in shlex.split(line):
        name, equals, value = word.partition("=")
        if name not in OPTIONS or not equals:
            near = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f" Did you mean {near[0]}=...?" if near else ""
            raise ValueError(
                f"%%infill has no option {word!r}, only {' and '.join(OPTIONS)}.{hint}"
            )
        options[name] = int(value) if name == "max_new_tokens" else value
    if options["until"] == "none":
        options["until"] = None
    return options


def _cut(cell):
    """The text before and after the cursor."""
    if cell.count(CURSOR) > 1:
        raise ValueError(f"The cell has more than one {CURSOR}; leave one.")
    if CURSOR not in cell:
        return cell.rstrip("\n"), ""
    prefix, _, suffix = cell.partition(CURSOR)
    return prefix, suffix


def load_ipython_extension(shell) -> None:
    """For `%load_ext codegemma_keras.notebook`."""
    magics = Magics(shell)
    shell.register_magic_function(magics.infill, "cell", "infill")
    shell.register_magic_function(magics.codegemma, "line", "codegemma")
