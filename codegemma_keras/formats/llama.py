"""A Llama as CodeGemma's network: the same numbers in another form, but for gelu.

Both are stacks of RMSNorm, rotary attention and a gated feed-forward layer. They differ
in constants that weights can take up, D being the width:

    Gemma multiplies embeddings by sqrt(D)     the embedding is divided by it,
    and its head is the embedding              and the last norm multiplied
    its norms multiply by 1 + w                w is one less
    gelu(x), near x sigmoid(1.702 x),          gate / 1.702 and up * 1.702: then
    where Llama has silu(x) = x sigmoid(x)     gelu(g / 1.702) * 1.702 u is near silu(g) u

The last line is an approximation: gelu and x sigmoid(1.702 x) differ by at most 0.02
(`tests/formats/test_llama.py` measures what that makes of the logits). All else is exact.
GGUF files of Llama hold the rows of query and key in the order of the original code, in
which the two halves of a rotated pair stand side by side; Transformers' is restored.

Left out: an untied head, biases, scaled rotary angles, mixtures of experts.
"""

import math

import numpy as np

from codegemma_keras.formats import gguf, weights

ARCHITECTURE = "llama"
# gelu(x) is near x * sigmoid(GELU * x) (Hendrycks and Gimpel 2016, arXiv 1606.08415).
GELU = 1.702


class File(gguf.File):
    """A GGUF file of a Llama with a tied embedding, re-expressed.

    `tensors` gives its matrices under Transformers' names and in their layout, as of a
    Gemma.
    """

    architecture = ARCHITECTURE

    def gemma_tensors(self, config: dict) -> dict:
        """Name in Transformers' Gemma -> function that reads the matrix, float32.

        Args:
            config: of `backbone_config`.

        Raises:
            ValueError: tensors that are missing, misshapen or not of this network.
        """
        rows, tensors = self.checked_tensors(config)

        def reader(name):
            def read():
                value = tensors[name].read().astype("float32")
                return as_gemma(name, value, config)

            return read

        return {row.transformers: reader(name) for name, row in rows.items()}

    def weights(self, config: dict) -> weights.Checkpoint:
        """The re-expressed weights, whose headers fit `config`."""
        readers = self.gemma_tensors(config)
        rows = weights.table(config["num_layers"])

        def stream(backbone):
            for row in rows:
                shape = weights.shape_of(row, config)
                value = readers[row.transformers]()
                yield row.keras, weights.from_transformers(value, row.layout, shape)

        return weights.Checkpoint("float32", stream)


def as_gemma(name: str, value: np.ndarray, config: dict) -> np.ndarray:
    """One tensor of a Llama's GGUF as the tensor of a Gemma in Transformers' layout.

    Args:
        name: in the file, such as `blk.0.attn_q.weight`.
        value: matrices `[out, in]`, norms `[D]`.
        config: arguments of `CodeGemmaBackbone`.
    """
    kind, root = name.split(".")[-2], math.sqrt(config["hidden_dim"])
    if kind == "token_embd":
        return value / root
    if kind == "output_norm":
        return value * root - 1
    if value.ndim == 1:
        return value - 1
    if kind == "ffn_gate":
        return value / GELU
    if kind == "ffn_up":
        return value * GELU
    if kind in ("attn_q", "attn_k"):
        return in_halves(value, config["head_dim"])
    return value


def in_halves(value: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of pairs side by side, `[N * H, D]`, as rows in halves of each head."""
    pairs = value.reshape(-1, head_dim // 2, 2, value.shape[1])  # [N, H/2, 2, D]
    return pairs.swapaxes(1, 2).reshape(value.shape)
