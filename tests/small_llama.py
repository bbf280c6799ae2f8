"""A tiny Llama as a GGUF file with a byte-level vocabulary, as llama.cpp writes them."""

import functools

import gguf
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from codegemma_keras.formats import tokenizer_json
from tests.small_vocabulary import source

# V is that of the vocabulary. All sizes differ, so that no swapped axis passes.
SIZES = {"layers": 2, "heads": 6, "kv_heads": 3, "width": 48, "ffn": 80, "head": 8}
BASE, EPSILON = 50_000.0, 1e-5
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>"]
SPECIAL += [
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
]
SPECIAL += ["<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>"]
SPECIAL += ["<jupyter_output>", "<jupyter_script>", "<empty_output>"]


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
    """Byte-level BPE as SmolLM2's, without a token for every byte."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, show_progress=False
    )
    made.train_from_iterator([source()], trainer)
    return made


def tokens() -> list[str]:
    """The piece of each id."""
    ids = tokenizer().get_vocab()
    return sorted(ids, key=ids.get)


def merges() -> list[str]:
    """Merges as GGUF has them."""
    settings = tokenizer_json.read(tokenizer().to_str().encode())
    return [" ".join(pair) for pair in settings["model"]["merges"]]


def tensors(seed=3) -> dict[str, np.ndarray]:
    """Random weights under GGUF's names, in Transformers' layout, not interleaved."""
    rng, s = np.random.default_rng(seed), SIZES
    width, out = s["width"], s["heads"] * s["head"]
    kv = s["kv_heads"] * s["head"]
    shapes = {"token_embd": (len(tokens()), width), "output_norm": (width,)}
    for i in range(s["layers"]):
        shapes |= {
            f"blk.{i}.attn_norm": (width,),
            f"blk.{i}.attn_q": (out, width),
            f"blk.{i}.attn_k": (kv, width),
            f"blk.{i}.attn_v": (kv, width),
            f"blk.{i}.attn_output": (width, out),
            f"blk.{i}.ffn_norm": (width,),
            f"blk.{i}.ffn_gate": (s["ffn"], width),
            f"blk.{i}.ffn_up": (s["ffn"], width),
            f"blk.{i}.ffn_down": (width, s["ffn"]),
        }
    values = {}
    for name, shape in shapes.items():
        scale = 0.02 if len(shape) == 1 else shape[-1] ** -0.5
        values[name] = rng.normal(len(shape) == 1, scale, shape).astype("float32")
    return values


def interleaved(value: np.ndarray) -> np.ndarray:
    """Rows of query or key as llama.cpp's converter orders them (`LlamaModel.permute`)."""
    heads = value.shape[0] // SIZES["head"]
    halves = value.reshape(heads, 2, SIZES["head"] // 2, value.shape[1])
    return halves.swapaxes(1, 2).reshape(value.shape)


def write(path, leave_out=(), change=None, pre="smollm") -> None:
    """Write the file.

    Args:
        path: of the file.
        leave_out: names of tensors.
        change: `(name, value) -> value`.
        pre: name of the pre-tokenizer.
    """
    writer, s = gguf.GGUFWriter(path, "llama"), SIZES
    writer.add_block_count(s["layers"])
    writer.add_context_length(8192)
    writer.add_embedding_length(s["width"])
    writer.add_feed_forward_length(s["ffn"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["kv_heads"])
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_freq_base(BASE)
    writer.add_rope_dimension_count(s["head"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    pieces = tokens()
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece in SPECIAL else 1 for piece in pieces])
    writer.add_token_merges(merges())
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in tensors().items():
        if name in leave_out:
            continue
        if name.endswith(("attn_q", "attn_k")):
            value = interleaved(value)
        value = change(name, value) if change else value
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
