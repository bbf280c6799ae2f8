"""Colab and Kaggle: their keys for downloads, and a folder that outlives the session.

    hosted.sign_in("code_gemma_2b_en")      before from_preset
    hosted.folder("adapter")                where results are kept

On any other machine both do what needs no host: nothing, and the present folder.
"""

import os
import pathlib
import sys

from codegemma_keras import presets
from codegemma_keras.formats import hub

DRIVE = "/content/drive"
KAGGLE_WORKING = "/kaggle/working"
# Names of the secrets, which are those of the variables that the downloaders read.
KEYS = {
    hub.KAGGLE: ("KAGGLE_USERNAME", "KAGGLE_KEY"),
    hub.HUGGING_FACE: ("HF_TOKEN",),
}


def where() -> str:
    """`"colab"`, `"kaggle"` or `"here"`.

    Examples:
        >>> where()
        'here'
    """
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    return "colab" if "google.colab" in sys.modules else "here"


def sign_in(preset: str) -> bool:
    """Hand the keys in Colab's or Kaggle's store of secrets to the downloader of a preset.

    Prints what was found, and what to do if a key is missing. A key itself is never
    printed. Keys that are in the environment already are used as they are.

    Args:
        preset: as `from_preset` takes it. One that needs no key is fine.

    Returns:
        Whether the download has all the keys that it may need.

    Examples:
        >>> sign_in("code_gemma_tiny_py")
        True
    """
    files = presets.resolve(preset)
    source = next((s for s in KEYS if files.location.startswith(s)), None)
    host = where()
    if source is None:
        return True
    site = "Kaggle" if source == hub.KAGGLE else "Hugging Face"
    page = files.licence or "the model's page"
    print(f"{preset} is on {site}. Accept its licence once: {page}")
    if source == hub.KAGGLE and host == "kaggle":
        print("On Kaggle your notebook is signed in already. Switch its internet on.")
        return True
    missing = [name for name in KEYS[source] if not _has(name, host)]
    if missing:
        print(f"Not found: {' and '.join(missing)}. {_advice(host, missing)}")
    return not missing


def folder(name: str) -> pathlib.Path:
    """A path for results that should outlive the session. Nothing is made there.

    It is `codegemma_keras/NAME` in Google Drive where Drive is mounted, and `NAME` in
    Kaggle's folder of outputs. Elsewhere it is `NAME` in the present folder, and on a
    Colab without Drive a line says that this folder is lost with the session.

    Examples:
        >>> folder("adapter").name
        'adapter'
    """
    host = where()
    if host == "kaggle":
        return pathlib.Path(KAGGLE_WORKING, name)
    if host == "colab":
        drive = pathlib.Path(DRIVE, "MyDrive")
        if drive.is_dir():
            return drive / "codegemma_keras" / name
        print(
            f"{name} is lost when this Colab session ends. To keep it, mount Drive first: "
            f"from google.colab import drive; drive.mount({DRIVE!r})"
        )
    return pathlib.Path(name)


def _has(name, host):
    """Whether a key is in the environment, or could be put there."""
    if not os.environ.get(name):
        found = _secret(name, host)
        if found:
            os.environ[name] = found
    return bool(os.environ.get(name))


def _secret(name, host):
    """A secret of the host, or None. The errors are those of a closed-source module."""
    try:
        if host == "colab":
            from google.colab import userdata

            return userdata.get(name)
        if host == "kaggle":
            from kaggle_secrets import UserSecretsClient

            return UserSecretsClient().get_secret(name)
    except Exception:  # There is no such secret, or this notebook may not read it.
        return None
    return None


def _advice(host, missing):
    if host == "colab":
        return (
            "Add them under the key symbol at the left, and allow this notebook to read "
            "them."
        )
    if host == "kaggle":
        return "Add them under Add-ons, Secrets, and attach them to this notebook."
    return f"Set them in the environment: export {missing[0]}=..."
