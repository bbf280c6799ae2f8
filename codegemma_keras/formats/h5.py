"""Keras's `.weights.h5` files: their headers, and one tensor at a time.

Keras itself writes them. Left out: compressed datasets, which Keras does not write and
whose sizes cannot be checked before they are read; links out of a file.
"""

import functools
import math
import os

import ml_dtypes
import numpy as np

from codegemma_keras.formats import checks
from codegemma_keras.formats.weights import Tensor


def tensors(files: list[str]) -> dict[str, Tensor]:
    """Every dataset of some files, known from the headers.

    Returns:
        "reversible_embedding/0" -> tensor: the group below `layers/` and the number of
        the variable in it.

    Raises:
        ValueError: a file is damaged, or a dataset points out of it.
    """
    import h5py

    found = {}
    for file in files:
        headers = {}
        try:
            with h5py.File(file, "r") as h5:
                # Visits what is in this file only: links out of it are not followed.
                h5.visititems(functools.partial(_note, headers))
        except Exception as error:  # h5py raises of every kind on damaged files.
            raise checks.damaged(file, error) from None
        for path, header in headers.items():
            name = _short(path)
            if name in found:
                raise ValueError(f"{file}: '{name}' is in {found[name].file} too.")
            shape, dtype = _checked(file, path, *header)
            found[name] = Tensor(file, path, shape, dtype, _read)
    return found


def _note(headers, path, item):
    if getattr(item, "shape", None) is None:
        return  # A group, or a dataset without a shape.
    outside = bool(item.external or item.is_virtual)
    dtype = item.attrs.get("dtype") or item.dtype.name
    stored = item.id.get_storage_size()
    shape = tuple(item.shape)
    if not isinstance(path, str):
        raise ValueError("a name that is no UTF-8")
    headers[path] = shape, str(dtype), item.dtype.itemsize, outside, stored


def _checked(file, path, shape, dtype, itemsize, outside, stored):
    if outside:
        raise ValueError(
            f"{file}: dataset '{path}' points to another file, which is not followed. "
            "Save the weights anew as one self-contained file."
        )
    nbytes = math.prod(shape) * itemsize
    if nbytes > min(stored, os.path.getsize(file)):
        raise checks.damaged(
            file, f"'{path}' should have {nbytes} bytes and has {stored}"
        )
    if dtype == "bfloat16" and itemsize != 2:
        raise checks.damaged(file, f"'{path}' is bfloat16 of {itemsize} bytes")
    return shape, dtype


def _short(path):
    # Keras 2.13 called the list of layers otherwise.
    path = path.replace("_layer_checkpoint_dependencies/", "layers/")
    return path.removeprefix("layers/").replace("/vars/", "/")


def _read(tensor):
    import h5py

    try:
        with h5py.File(tensor.file, "r") as h5:
            dataset = h5[tensor.name]
            value = np.empty(tensor.shape, dataset.dtype)
            if value.size:
                dataset.read_direct(value)
    except Exception as error:
        raise checks.damaged(tensor.file, error) from None
    # HDF5 has no bfloat16; Keras stores its bytes and says so in an attribute.
    return value.view(ml_dtypes.bfloat16) if tensor.dtype == "bfloat16" else value
