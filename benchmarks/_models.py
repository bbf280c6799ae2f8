"""What the decoding benchmarks share: one set of random weights in three libraries.

Random weights decode as fast as trained ones and stop nowhere, so every library does the
same number of steps. Token ids go in and out: tokenizers are not measured.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import platform
import statistics
import time
from importlib.metadata import version

import keras
import keras_hub
import numpy as np
from _data import device

from codegemma_keras import CodeGemmaBackbone, CodeGemmaCausalLM
from codegemma_keras.export.transformers import config_json
from codegemma_keras.formats import weights

RESULTS = pathlib.Path(__file__).parent / "results"
SIZES = {
    # The 2B's vocabulary and head, half its width, 4 of its 18 layers: 1.3 GB.
    "mid": (256_000, 4, 1024, 8192),
    # For trying a benchmark out.
    "small": (8_192, 2, 256, 1024),
}
# Not random: the preset in the package.
EMBEDDED = "code_gemma_tiny_py"


def arguments(description, **defaults):
    """A parser with what all have: `--size`, `--repeats`, `--peers`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", choices=[*SIZES, "embedded"], default="mid")
    parser.add_argument("--repeats", type=int, default=defaults.get("repeats", 5))
    parser.add_argument(
        "--peers", nargs="*", default=["keras_hub", "transformers"], help="or none"
    )
    return parser


def backbone_arguments(size):
    vocabulary, layers, width, ffn = SIZES[size]
    return {
        "vocabulary_size": vocabulary,
        "num_layers": layers,
        "num_query_heads": 8,
        "num_key_value_heads": 1,
        "hidden_dim": width,
        "intermediate_dim": 2 * ffn,
        "head_dim": 256,
        "dtype": "float32",
    }


def make_backbone(size):
    """Ours, of random weights or the embedded preset."""
    if size == "embedded":
        return CodeGemmaBackbone.from_preset(EMBEDDED, dtype="float32")
    keras.utils.set_random_seed(0)
    return CodeGemmaBackbone(**backbone_arguments(size))


def random_prompts(backbone, lengths, seed=1):
    """Token ids at random, none of them a control token."""
    rng = np.random.default_rng(seed)
    size = backbone.vocabulary_size
    return [rng.integers(min(300, size // 2), size, n).tolist() for n in lengths]


class Ours:
    """Each library: `generate(prompts, new, context) -> list of new ids`."""

    def __init__(self, backbone):
        self.lm = CodeGemmaCausalLM(backbone)

    def generate(self, prompts, new, context):
        results = self.lm.engine.generate(prompts, new)
        return [r.token_ids for r in results]

    def until(self, prompt, stop, context):
        """Decode up to a stop token with room for `context` tokens."""
        self.lm.engine.generate([prompt], context - len(prompt), [stop])


class KerasHub:
    """As KerasHub is used: every batch padded to `context`, its `max_length`."""

    def __init__(self, backbone):
        self.lm = keras_hub.models.GemmaCausalLM(backbone=backbone)
        self.lm.compile(sampler="greedy")

    def generate(self, prompts, new, context):
        inputs = self._padded(prompts, context)
        out = self.lm.generate(inputs, stop_token_ids=None)["token_ids"]
        out = keras.ops.convert_to_numpy(out)
        return [
            row[len(p) : len(p) + new].tolist()
            for row, p in zip(out, prompts, strict=True)
        ]

    def until(self, prompt, stop, context):
        """Decode up to a stop token with room for `context` tokens."""
        self.lm.generate(self._padded([prompt], context), stop_token_ids=[stop])

    @staticmethod
    def _padded(prompts, context):
        ids = np.zeros((len(prompts), context), "int32")
        mask = np.zeros((len(prompts), context), "bool")
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
            mask[row, : len(prompt)] = True
        return {"token_ids": ids, "padding_mask": mask}


class Transformers:
    """As Transformers is used: left-padded to the longest prompt, dynamic cache."""

    def __init__(self, backbone):
        import torch
        import transformers

        self.torch = torch
        config = config_json(backbone.get_config(), "float32")
        config = transformers.GemmaConfig(
            **{k: v for k, v in config.items() if k not in ("architectures",)}
        )
        model = transformers.GemmaForCausalLM(config)
        state = {
            row.transformers: torch.tensor(
                weights.to_transformers(_value(backbone, row.keras), row.layout)
            )
            for row in weights.table(backbone.num_layers)
        }
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        self.lm = model.eval()

    def generate(self, prompts, new, context):
        torch, longest = self.torch, max(map(len, prompts))
        ids = torch.zeros((len(prompts), longest), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        with torch.no_grad():
            out = self.lm.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=1,
            )
        return out[:, longest:].tolist()


def _value(backbone, path):
    [variable] = [v for v in backbone.variables if v.path == path]
    return keras.ops.convert_to_numpy(variable.value)


def libraries(size, peers):
    """`name -> library`, all with the same weights."""
    backbone = make_backbone(size)
    found = {"ours": Ours(backbone)}
    if "keras_hub" in peers:
        config = backbone.get_config()
        names = [*backbone_arguments("small"), "layer_norm_epsilon"]
        hub = keras_hub.models.GemmaBackbone(
            **{**{name: config[name] for name in names}, "dtype": "float32"}
        )
        for theirs, ours in zip(hub.variables, backbone.variables, strict=True):
            assert theirs.path == ours.path
            theirs.assign(ours.value)
        found["keras_hub"] = KerasHub(hub)
    if "transformers" in peers:
        found["transformers"] = Transformers(backbone)
    return found


def timed(function, *args):
    """`(seconds, result)`."""
    start = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - start, result


def in_turn(functions, repeats, report=lambda seconds: None, processor=None):
    """Run each once to compile, then all in turn; `name -> list of seconds`.

    In turn, so that a busy machine slows all of them alike.

    Args:
        functions: by name.
        repeats: of each.
        report: called with what there is after every round.
        processor: a dictionary to fill with seconds of processor time, all threads
            together, which other programs on the machine change less.
    """
    processor = {} if processor is None else processor
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            before = time.process_time()
            seconds[name].append(timed(function)[0])
            processor.setdefault(name, []).append(time.process_time() - before)
            print(
                f"{name}: {seconds[name][-1]:.3f} s, of processors "
                f"{processor[name][-1]:.3f} s",
                flush=True,
            )
        report(seconds)
    return seconds


def medians(seconds):
    """Of each of `in_turn`'s."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def median(values):
    return statistics.median(values)


def bandwidth():
    """Bytes a second that all cores together read, over 1 GB: the roofline's slope.

    The best of numpy's maximum in one thread and in a thread for each core.
    """
    data = np.ones(2**28, "float32")
    cores = len(os.sched_getaffinity(0))
    parts = np.split(data, cores) if len(data) % cores == 0 else [data]
    best = min(timed(lambda: float(data.max()))[0] for _ in range(5))
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(5):
            seconds, _ = timed(lambda: list(pool.map(np.max, parts)))
            best = min(best, seconds)
    return data.nbytes / best


class Report:
    """Figures beside device, date and versions, in results/<name>_<backend>.json.

    Written at every change, so that a run that is cut off keeps what it has. Figures of
    an earlier run stay until they are measured again; each section says its date and, if
    it was measured since 2026-11-28, its device.
    """

    def __init__(self, name):
        backend = keras.config.backend()
        self._path = RESULTS / f"{name}_{backend}.json"
        kept = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._content = {
            "device": device(),
            "python": platform.python_version(),
            "backend": backend,
            "versions": {
                name: version(name)
                for name in ("keras", "keras-hub", "jax", "tensorflow", "transformers")
            },
            "sections": kept.get("sections", {}),
        }

    def put(self, section, **figures):
        """Replace figures of a section."""
        found = self._content["sections"].setdefault(section, {})
        found.update(
            date=datetime.date.today().isoformat(),
            device=self._content["device"],
            **figures,
        )
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(self._content, indent=2) + "\n")
        print(section, json.dumps(figures), flush=True)
