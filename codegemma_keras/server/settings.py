"""What `codegemma serve` can be told. Importing this loads neither Keras nor a server."""

import dataclasses
import ipaddress
import pathlib
from typing import Annotated, Literal

import tyro

AUTO = "auto"
# What people meet first: the smallest model that completes code, 93 MB to download.
DEFAULT_PRESET = "smollm2_135m_code"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Serve a model to editors and to clients of OpenAI, llama.cpp, Ollama and Tabby.

    Stop the server with ^C. Running requests then have a few seconds to end.
    """

    # The model: a name, kaggle://..., hf://... or a folder.
    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = (
        DEFAULT_PRESET
    )
    # The folder of an adapter in PEFT's format, such as `codegemma sft` writes. The model
    # is used with it.
    adapter: str | None = None
    # The port. llama.vim and llama.vscode expect 8012, and Ollama's clients expect 11434.
    port: int = 8012
    # The address to listen at. Any address but a loopback address requires --key-file.
    host: str = "127.0.0.1"
    # A file that holds the key which every request must carry.
    key_file: str | None = None
    # Further names by which clients may call this machine (the Host header).
    allow_host: tuple[str, ...] = ()
    # Web pages that may ask, such as https://editor.example.org; "null" names pages
    # from files.
    allow_origin: tuple[str, ...] = ()
    # The name of the model in answers. Default: the last part of the preset's name.
    model_name: str | None = None
    # The dtype of the weights in memory. "auto" is the one in which they are stored. The
    # default is "auto", but float32 on a CPU, which computes faster in it, if the model then
    # takes at most a quarter of the memory.
    dtype: str | None = None
    # The most tokens of prompt and answer together. The default is that of the preset.
    context: int | None = None
    # The order of the prompt. With all but "psm", nearly all of it is found in the cache
    # while you type. The default is "line", or "left_to_right" for a model that was not
    # taught to fill in the middle. "psm" is the order that `infill` uses.
    layout: Literal["line", "psm", "spm", "left_to_right"] | None = None
    # The number of answers that are written at once, in one batch. A request with `n=4`
    # takes four places. Each answer needs a cache of up to --context tokens.
    rows: int = 4
    # The number of prompts that may wait for a place. Further ones are refused with
    # status 503.
    max_waiting: int = 64
    # Memory for prompts that may be asked again, in MiB.
    cache_mib: int = 512
    # The most seconds of a request. After them it ends with the text so far, or with
    # status 503 if there is none.
    max_seconds: float = 60.0
    # The largest body of a request, in KiB.
    max_body_kib: int = 4096
    # The number of connections that are served at once. Requests on further ones are
    # refused with status 503. A connection without a request is closed after ten seconds.
    max_connections: int = 1024
    # Compile programs while no request is running, or after a minute at most, so that few
    # requests have to wait for one. The server answers as soon as the model is loaded.
    warm_up: bool = True
    # Keep the compiled programs in this folder, so that the next start has them (JAX
    # only). "auto" is a folder in the user's cache, which holds one gigabyte at most; None
    # keeps nothing.
    compiled_folder: str | None = AUTO
    # Write prompts and answers to the log.
    log_prompts: bool = False

    def check(self) -> None:
        """Raise ValueError for settings with which nothing can be served."""
        least = {"rows": 1, "max_waiting": 1, "cache_mib": 0, "max_body_kib": 1}
        least |= {"port": 0, "max_connections": 1, "max_seconds": 0.001}
        for name, value in least.items():
            if not getattr(self, name) >= value:
                option = name.replace("_", "-")
                raise ValueError(
                    f"--{option} {getattr(self, name)} must be at least {value}"
                )
        if self.port > 65_535:
            raise ValueError(f"--port {self.port} must be at most 65535")
        if not self.loopback and self.key_file is None:
            raise ValueError(
                f"--host {self.host} can be reached from other machines, so requests "
                "must carry a key: give --key-file FILE with a long random line in it"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def name(self) -> str:
        """The model's name in answers."""
        return self.model_name or self.preset.rstrip("/").rpartition("/")[2]

    def key(self) -> bytes | None:
        """The key that requests must carry, or None.

        Raises:
            ValueError: a file without a key.
            OSError: no such file.
        """
        if self.key_file is None:
            return None
        key = pathlib.Path(self.key_file).read_bytes().strip()
        if not key or b"\n" in key:
            raise ValueError(f"{self.key_file} must hold one line, the key")
        return key
