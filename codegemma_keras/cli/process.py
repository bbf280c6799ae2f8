"""What a command does to its process: the backend, and a safe terminal."""

import importlib.util
import json
import os
import pathlib
import re

BACKENDS = ("jax", "tensorflow")
BACKEND_HELP = """\
backend: KERAS_BACKEND, if set; else the one in Keras's own configuration file, if that
names another than Keras's default; else JAX, if installed (it decodes faster);
else TensorFlow."""

# Characters by which a text could drive a terminal: control characters but tab and the
# line ends, those of the upper half (U+009B begins a command as ESC [ does), and the
# marks that change the direction of writing, which can make code look like other code.
_DRIVING = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def visible(text: str) -> str:
    r"""Text for a terminal: characters that would drive it are shown as symbols.

    Control characters below U+0020 become their pictures (ESC becomes U+241B), all
    others their escapes (`\u202e`). Tabs and line ends stay.
    """

    def shown(match):
        code = ord(match[0])
        return (
            chr(0x2400 + code)
            if code < 0x20
            else match[0].encode("unicode_escape").decode("ascii")
        )

    return _DRIVING.sub(shown, text)


def choose_backend():
    """Prefer JAX where nobody chose; `BACKEND_HELP` states the rule.

    Must run before Keras is imported.

    Raises:
        ValueError: somebody chose a backend on which this package does not run.
    """
    chosen = os.environ.get("KERAS_BACKEND")
    if not chosen and _configured_backend() != "tensorflow":
        chosen = _configured_backend()
    if chosen and chosen not in BACKENDS:
        raise ValueError(
            f"Keras's backend is set to {chosen!r}; codegemma_keras runs on "
            f"{' and '.join(BACKENDS)}. Set KERAS_BACKEND=jax."
        )
    if chosen:
        return
    if importlib.util.find_spec("jax") is not None:
        os.environ["KERAS_BACKEND"] = "jax"


def _configured_backend() -> str:
    # Keras writes this file by itself, with its default: so the default is no choice.
    home = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    path = pathlib.Path(home).expanduser() / "keras.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("backend", "tensorflow")
    except (OSError, ValueError, AttributeError):
        return "tensorflow"
