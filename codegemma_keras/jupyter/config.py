"""What the administrator of a Jupyter server decides, and people may choose among.

    c.CodeGemma.preset = "code_gemma_2b_en"
    c.CodeGemma.presets = ["smollm2_135m_code"]       # people may also choose these
    c.CodeGemma.server = "http://gpu.example.org:8012"    # a `codegemma serve` to ask

A preset can be a folder, and a server any address. So a page names none: it chooses one
of these, by its name, and whatever else it sends is refused.
"""

import urllib.parse

from traitlets import List, Unicode
from traitlets.config import LoggingConfigurable

from codegemma_keras.server.settings import DEFAULT_PRESET, Settings


class CodeGemma(LoggingConfigurable):
    """The section `c.CodeGemma` of `jupyter_server_config.py`."""

    preset = Unicode(
        help="The model, as `codegemma serve` takes it. The default is "
        f"{DEFAULT_PRESET}, or the server if one is given."
    ).tag(config=True)
    presets = List(
        Unicode(), help="Further models that people may choose in the settings."
    ).tag(config=True)
    server = Unicode(
        help="The address of a `codegemma serve`, which then completes instead of a "
        "model in this process."
    ).tag(config=True)
    server_key_file = Unicode(
        help="A file that holds the key of that server (its --key-file)."
    ).tag(config=True)

    def offered(self) -> list[str]:
        """The names that a page may choose; the first is the default.

        Raises:
            ValueError: a value with which nothing can be completed.
        """
        if self.server:
            _check_address(self.server)
        elif self.server_key_file:
            raise ValueError(
                "c.CodeGemma.server_key_file is given, but c.CodeGemma.server is not. "
                "Give both, or leave the key out."
            )
        preset = self.preset or ("" if self.server else DEFAULT_PRESET)
        names = [self.server, preset, *self.presets]
        return list(dict.fromkeys(name for name in names if name))

    def key(self) -> str | None:
        """The key of the server.

        Raises:
            ValueError, OSError: the file does not hold one line, or cannot be read.
        """
        key = Settings(key_file=self.server_key_file or None).key()
        return None if key is None else key.decode("latin-1")


def _check_address(address):
    fault = None
    try:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            fault = "it must begin with http:// or https:// and name a machine"
        elif parts.username is not None or parts.query or parts.fragment:
            fault = "it must have no user, no `?` and no `#`"
        elif parts.port == 0:
            fault = "the port must be between 1 and 65535"
    except ValueError as error:
        fault = str(error)
    if fault:
        raise ValueError(
            f"c.CodeGemma.server is {address!r}, but {fault}. Give an address such as "
            "http://127.0.0.1:8012."
        )
