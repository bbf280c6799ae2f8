"""Safetensors files: their headers, one tensor at a time, and writing.

Reading goes through the library, which checks a header against the file's length. Its
writer takes all tensors of a file at once; ours takes one. Left out: integers, float8
and other dtypes that are no weights of this network.
"""

import contextlib
import json
import math
import struct

import ml_dtypes
import numpy as np

from codegemma_keras.formats import checks
from codegemma_keras.formats.weights import Tensor

# Safetensors' name -> ours.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FORMATS = {
    "float32": ("F32", np.dtype("float32")),
    "float16": ("F16", np.dtype("float16")),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
}


def tensors(files: list[str]) -> dict[str, Tensor]:
    """Every tensor of some files by its name, known from the headers.

    Raises:
        ValueError: a file is damaged, or a name is there twice.
    """
    found = {}
    for file in files:
        with _opened(file) as library:
            for name in library.keys():  # noqa: SIM118 (it is no dict)
                if name in found:
                    raise ValueError(
                        f"{file}: tensor '{name}' is in {found[name].file} too. Which "
                        "one counts cannot be known."
                    )
                header = library.get_slice(name)
                dtype = DTYPES.get(header.get_dtype(), header.get_dtype())
                found[name] = Tensor(
                    file, name, tuple(header.get_shape()), dtype, _read
                )
    return found


def _read(tensor):
    # The library maps the whole file into memory, and the pages it has read count as
    # ours until it is closed: so the file is opened anew for each tensor.
    with _opened(tensor.file) as library:
        return library.get_tensor(tensor.name)


@contextlib.contextmanager
def _opened(file):
    from safetensors import safe_open

    try:
        with safe_open(file, framework="np") as library:
            yield library
    except (OSError, ValueError):
        raise
    except Exception as error:  # SafetensorError, and what Rust's panics become.
        raise checks.damaged(file, error) from None


def to_bytes(tensors: dict, metadata: dict[str, str]) -> bytes:
    """Tensors as the bytes of a file, the same for the same arguments.

    The library writes the metadata in another order in each process.
    """
    import safetensors.numpy

    made = safetensors.numpy.save(tensors, metadata)
    (length,) = struct.unpack("<Q", made[:8])
    header = json.loads(made[8 : 8 + length])
    header["__metadata__"] = dict(sorted(metadata.items()))
    return _header(header) + made[8 + length :]


def _header(header: dict) -> bytes:
    """The start of a file: the tensors that follow begin on a multiple of 8 bytes."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


class Writer:
    """A safetensors file that is filled a tensor at a time, in any order.

    The format is a little-endian 64-bit length, that much JSON, then the tensors.

        with Writer(path, {"a": (2, 3)}, "bfloat16") as file:
            file.put("a", value)

    Args:
        path: of the file.
        shapes: name -> shape, in the order they shall have in the file.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`; values are converted.

    Raises (when closed):
        ValueError: a tensor was not given.
    """

    def __init__(self, path, shapes: dict, dtype: str):
        code, self._dtype = _FORMATS[dtype]
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        self._places, self._shapes, self._missing = {}, shapes, set(shapes)
        for name, shape in shapes.items():
            end = offset + math.prod(shape) * self._dtype.itemsize
            header[name] = {
                "dtype": code,
                "shape": list(shape),
                "data_offsets": [offset, end],
            }
            self._places[name] = offset
            offset = end
        start = _header(header)
        self._start = len(start)
        self._file = open(path, "wb")  # noqa: SIM115 (closed by __exit__)
        self._file.write(start)

    def __enter__(self):
        return self

    def put(self, name: str, value: np.ndarray):
        """Write one tensor to its place."""
        if value.shape != tuple(self._shapes[name]):
            raise ValueError(
                f"{name}: expected shape {self._shapes[name]}, got {value.shape}."
            )
        self._file.seek(self._start + self._places[name])
        for part in parts(value):
            part = np.ascontiguousarray(part, dtype=self._dtype)
            self._file.write(part.view(np.uint8).data if part.ndim else part.tobytes())
        self._missing.discard(name)

    def __exit__(self, kind, error, trace):
        self._file.close()
        if kind is None and self._missing:
            raise ValueError(f"Tensors were not given: {sorted(self._missing)[:3]}.")


def parts(value: np.ndarray, numbers: int = 2**24):
    """A tensor in runs of rows of about `numbers` numbers, so that a copy is small."""
    if value.ndim < 2 or value.size <= numbers:
        yield value
        return
    rows = max(1, numbers // math.prod(value.shape[1:]))
    for start in range(0, len(value), rows):
        yield value[start : start + rows]


def itemsize(dtype: str) -> int:
    """Bytes of one number of a dtype that `Writer` takes.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in _FORMATS:
        raise ValueError(f"dtype={dtype!r}: give one of {', '.join(_FORMATS)}.")
    return _FORMATS[dtype][1].itemsize
