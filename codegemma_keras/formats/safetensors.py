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


def write(path, shapes: dict, dtype: str, read) -> int:
    """Write one safetensors file, a tensor at a time; returns the bytes of tensors.

    The format is a little-endian 64-bit length, that much JSON, then the tensors in
    that order.

    Args:
        path: of the file.
        shapes: name -> shape.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`.
        read: `name -> ndarray`, called once for each, in order.
    """
    code, numpy_dtype = _FORMATS[dtype]
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * numpy_dtype.itemsize
        header[name] = {
            "dtype": code,
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # The tensors start on a multiple of 8 bytes.
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            value = np.ascontiguousarray(read(name), dtype=numpy_dtype)
            if value.shape != tuple(shape):
                raise ValueError(f"{name}: expected shape {shape}, got {value.shape}.")
            file.write(value.view(np.uint8).data if value.ndim else value.tobytes())
    return offset


def itemsize(dtype: str) -> int:
    """Bytes of one number of a dtype that `write` takes.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in _FORMATS:
        raise ValueError(f"dtype={dtype!r}: give one of {', '.join(_FORMATS)}.")
    return _FORMATS[dtype][1].itemsize
