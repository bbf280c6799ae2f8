"""Types of GGUF's tensors: rows of numbers to bytes.

`gguf` writes the plain types and the older blocks of 32 numbers (Q8_0, Q5_0, ...);
`libgguf`, llama.cpp's own code in a package, writes blocks of 256 (Q4_K, Q6_K).

Left out: types that want an importance matrix, and llama.cpp's mixtures (Q4_K_M): its
`llama-quantize` makes these of an F16 file.
"""

import math

import numpy as np

from codegemma_keras.formats.safetensors import parts

PLAIN = ("F32", "F16", "BF16")
BLOCKS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
K_BLOCKS = ("Q6_K", "Q5_K", "Q4_K")
TYPES = PLAIN + BLOCKS + K_BLOCKS
# Where a row is no multiple of 256 numbers, as in llama-quantize.
_INSTEAD = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}


def check(quantization: str) -> str:
    """The type as GGUF spells it.

    Raises:
        ValueError: not one of `TYPES`. ImportError: it needs libgguf.
    """
    name = quantization.upper()
    if name not in TYPES:
        raise ValueError(
            f"quantization={quantization!r}: written are {', '.join(TYPES)}. For others "
            "export F16, then run llama.cpp's `llama-quantize IN OUT TYPE`."
        )
    if name in K_BLOCKS:
        _libgguf()
    return name


def _libgguf():
    try:
        import libgguf
    except ImportError:
        raise ImportError(
            f"{', '.join(K_BLOCKS)} are written by libgguf: pip install "
            '"codegemma-keras[export]". Or export F16, then run llama.cpp\'s '
            "`llama-quantize`."
        ) from None
    return libgguf


def type_of(quantization: str, axes: str, shape: tuple) -> str:
    """The type of one tensor in a file of type `quantization`.

    Vectors stay float32. The embedding is the head as well, where errors count most: it
    gets at least 6 bits, as in llama-quantize.
    """
    if len(shape) == 1:
        return "F32"
    kind = quantization
    if axes == "VD" and kind not in (*PLAIN, "Q8_0"):
        kind = "Q6_K" if kind in K_BLOCKS else "Q8_0"
    if kind in K_BLOCKS and shape[-1] % 256:
        kind = _INSTEAD[kind]
    if kind not in PLAIN and shape[-1] % 32:
        raise ValueError(
            f"A matrix has rows of {shape[-1]} numbers, and {kind} packs 32 at a time. "
            "Export F16 or BF16."
        )
    return kind


def nbytes(kind: str, shape: tuple) -> int:
    """Bytes of a tensor of type `kind`."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return math.prod(shape) // block * size


def encoded(value: np.ndarray, kind: str):
    """The bytes of a tensor, as arrays of some rows each."""
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    quantize = _libgguf().quantize_rows if kind in K_BLOCKS else gguf.quantize
    for part in parts(value, 2**22):
        part = np.ascontiguousarray(part, dtype=np.float32)
        if kind == "F16" and np.abs(part).max(initial=0) > 65504:
            raise ValueError(
                "A weight is larger than float16 holds. Export BF16 or F32."
            )
        yield np.ascontiguousarray(quantize(part, number)).view(np.uint8)
