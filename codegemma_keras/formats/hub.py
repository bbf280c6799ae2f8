"""Where the files of a preset are: a local folder, Kaggle, or Hugging Face.

Downloads are done by `kagglehub` and `huggingface_hub`, one file at a time into their
own caches. Whatever goes wrong there leaves here as one built-in exception whose text
says what to do. Left out: other hubs and cloud buckets; download, then pass the folder.
"""

import dataclasses
import os
from collections.abc import Callable

from codegemma_keras.formats import checks

KAGGLE = "kaggle://"
HUGGING_FACE = "hf://"
LARGEST_VOCABULARY = 1 << 27


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one preset.

    Attributes:
        name: what the caller asked for; the name in every message.
        location: a local folder, `kaggle://...` or `hf://...`.
        licence: page where the licence is accepted, for gated downloads; or None.
        prepare: makes the local folder when the first file is asked for, and returns
            its path; None: there is nothing to make.

    Each file is looked for once, however often it is asked for.
    """

    name: str
    location: str
    licence: str | None = None
    prepare: Callable[[], str] | None = None
    _found: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def find(self, path: str) -> str | None:
        """Local path of a file of the preset, downloaded if need be; None if absent.

        Raises:
            PermissionError: gated, and no licence accepted or no token.
            FileNotFoundError: there is no such repository.
            ConnectionError: no network, and not in the cache.
            ValueError: a malformed handle. OSError: any other failure of a download.
        """
        if path not in self._found:
            self._found[path] = self._look_for(path)
        return self._found[path]

    @property
    def is_local(self) -> bool:
        """Whether every file is on this machine already."""
        return not self.location.startswith((KAGGLE, HUGGING_FACE))

    def _look_for(self, path):
        if self.location.startswith(KAGGLE):
            return self._from_kaggle(path)
        if self.location.startswith(HUGGING_FACE):
            return self._from_hugging_face(path)
        folder = self.location if self.prepare is None else self.prepare()
        local = os.path.join(folder, *path.split("/"))
        return local if os.path.isfile(local) else None

    def get(self, path: str, mend: str) -> str:
        """As `find`, but an absent file is an error that ends in `mend`."""
        found = self.find(path)
        if found is None:
            raise FileNotFoundError(f"{self.name} has no file {path}. {mend}")
        return found

    def read(self, path: str, mend: str) -> bytes:
        """Contents of a small file, a vocabulary; as `get`."""
        found = self.get(path, mend)
        if os.path.getsize(found) > LARGEST_VOCABULARY:
            raise ValueError(
                f"{path} of {self.name} is larger than {LARGEST_VOCABULARY >> 20} MB, "
                "so it is no vocabulary."
            )
        with open(found, "rb") as file:
            return file.read()

    def shards(self, index: str, ending: str) -> list[str]:
        """Local paths of all files of weights that an index names.

        Args:
            index: path of the index, which has a `weight_map`.
            ending: of every such file's name.

        Raises:
            ValueError: the index is damaged, or names other files.
        """
        where = f"{os.path.basename(index)} of {self.name}"
        mapping = checks.read_json(index, self.name).get("weight_map")
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(f"{where} has no weight_map. Download or copy it again.")
        names = []
        for value in mapping.values():  # Keras lists several where a layer is split.
            names += value if isinstance(value, list) else [value]
        for name in names:
            if type(name) is not str or not name.endswith(ending):
                raise ValueError(
                    f"{where} names {name!r:.60}, which is no *{ending} file."
                )
            if os.path.basename(name) != name:
                raise ValueError(f"{where} points outside the preset: {name!r:.60}.")
        mend = f"{os.path.basename(index)} lists it: download or copy the missing file."
        return [self.get(name, mend) for name in sorted(set(names))]

    def _from_kaggle(self, path):
        try:
            import kagglehub
            from kagglehub import exceptions
        except ImportError:
            raise ImportError(
                f"{self.name} is on Kaggle: `pip install kagglehub` to download it."
            ) from None
        import requests

        handle = self.location.removeprefix(KAGGLE)
        if len(handle.split("/")) not in (4, 5):
            raise ValueError(
                f"{self.name} is not a Kaggle model handle. The form is "
                "kaggle://owner/model/keras/variant or, for one version, "
                "kaggle://owner/model/keras/variant/version."
            )
        try:
            return kagglehub.model_download(handle, path)
        except (exceptions.UnauthenticatedError, exceptions.CredentialError):
            raise self._gated_on_kaggle(handle) from None
        except requests.HTTPError as error:  # Base of Kaggle's and Colab's own.
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                raise self._gated_on_kaggle(handle) from None
            if status == 404:
                return self._absent(path, "Kaggle")
            raise self._failed(path, error) from None
        except exceptions.NotFoundError:
            return self._absent(path, "Kaggle")
        except (requests.ConnectionError, requests.Timeout):
            raise self._unreachable("Kaggle") from None
        except ValueError as error:
            if "is not present in the model files" in str(error):
                return None
            raise self._failed(path, error) from None
        except Exception as error:  # A third party's; see the module docstring.
            raise self._failed(path, error) from None

    def _from_hugging_face(self, path):
        try:
            import huggingface_hub
            from huggingface_hub import errors
        except ImportError:
            raise ImportError(
                f"{self.name} is on Hugging Face: `pip install huggingface_hub` to "
                "download it."
            ) from None
        repository = self.location.removeprefix(HUGGING_FACE)
        try:
            return huggingface_hub.hf_hub_download(repo_id=repository, filename=path)
        except errors.HFValidationError:
            raise ValueError(
                f"{self.name} is not a Hugging Face handle. The form is "
                "hf://owner/model, for example hf://google/codegemma-2b."
            ) from None
        except errors.GatedRepoError:
            raise self._gated_on_hugging_face(repository) from None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise FileNotFoundError(
                f"There is no model {repository} on Hugging Face, or it is private. "
                "Check the spelling; for a private one, log in with `hf auth login` "
                "or set HF_TOKEN."
            ) from None
        # Raised when offline, and a subclass of the next one: so it comes first.
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
            raise self._unreachable("Hugging Face") from None
        except errors.EntryNotFoundError:
            return None
        except errors.HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                raise self._gated_on_hugging_face(repository) from None
            raise self._failed(path, error) from None
        except ConnectionError:
            raise self._unreachable("Hugging Face") from None
        except Exception as error:  # A third party's; see the module docstring.
            raise self._failed(path, error) from None

    def _absent(self, path, hub):
        if path != "config.json":  # Optional files may be absent.
            return None
        raise FileNotFoundError(
            f"There is no model {self.location} on {hub}, or it has no config.json. "
            "Check the spelling, the variant and the version."
        ) from None

    def _gated_on_kaggle(self, handle):
        page = "/".join(handle.split("/")[:2])
        licence = self.licence or f"https://www.kaggle.com/models/{page}"
        return PermissionError(
            f"{self.name} needs its licence accepted: log in to Kaggle, accept it at "
            f"{licence}, make a token at https://www.kaggle.com/settings, then set "
            "KAGGLE_USERNAME and KAGGLE_KEY (or KAGGLE_API_TOKEN), save it as "
            "~/.kaggle/kaggle.json, or call kagglehub.login()."
        )

    def _gated_on_hugging_face(self, repository):
        return PermissionError(
            f"{self.name} needs its licence accepted: log in to Hugging Face, accept "
            f"it at https://huggingface.co/{repository}, make a token at "
            "https://huggingface.co/settings/tokens, then set HF_TOKEN or run "
            "`hf auth login`."
        )

    def _unreachable(self, hub):
        return ConnectionError(
            f"{self.name}: {hub} cannot be reached, and the files are not in the "
            "cache. Connect to the network, or pass the path of a folder that holds "
            "the model. The preset 'code_gemma_tiny_py' is embedded and needs neither."
        )

    def _failed(self, path, error):
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return OSError(
            f"{self.name}: {path} could not be downloaded: {reason}. Try again later, or "
            "download the model by other means and pass the path of its folder."
        )
