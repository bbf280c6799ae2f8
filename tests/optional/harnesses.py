"""lm-evaluation-harness and Inspect ask the same tiny model as we do: equal scores.

`make test-harnesses` runs this in an environment without PyTorch, which is not needed.
"""

import importlib.util
import json
import os
import pathlib

import keras
import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from codegemma_keras import (
    CodeGemmaBackbone,
    CodeGemmaCausalLM,
    CodeGemmaCausalLMPreprocessor,
    CodeGemmaTokenizer,
    evals,
)
from codegemma_keras.evals import catalog, gsm8k
from codegemma_keras.evals.data import Data
from codegemma_keras.evals.lm_eval import CodeGemmaLM, generation_options, write_task
from codegemma_keras.evals.run import Settings
from tests.evals.fake_model import FakeModel
from tests.small_vocabulary import small_vocabulary, source

HARNESS = pathlib.Path(lm_eval.__file__).parent


@pytest.fixture(scope="module")
def lm():
    """A random model whose likelihoods and answers differ from row to row."""
    keras.utils.set_random_seed(1)
    tokenizer = CodeGemmaTokenizer(proto=small_vocabulary())
    backbone = CodeGemmaBackbone(
        vocabulary_size=tokenizer.vocabulary_size(),
        num_layers=2,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=32,
        intermediate_dim=64,
        head_dim=16,
    )
    for variable in backbone.weights:
        variable.assign(keras.random.normal(variable.shape, 0, 0.3))
    return CodeGemmaCausalLM(
        backbone, CodeGemmaCausalLMPreprocessor(tokenizer, sequence_length=256)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows in the formats of PIQA, HellaSwag, ARC and BoolQ, of lines of Python."""
    folder = tmp_path_factory.mktemp("data")
    lines = [line.strip() for line in source().split("\n") if len(line.strip()) > 12]
    rows = {"piqa": [], "hellaswag": [], "arc_easy": [], "boolq": []}
    for n in range(40):
        a, b, c, d, e = lines[7 * n : 7 * n + 5]
        rows["piqa"].append({"goal": a, "sol1": b, "sol2": c, "label": n % 2})
        rows["hellaswag"].append(
            {
                "activity_label": a,
                "ctx_a": f"{b} [title] x",
                "ctx_b": c,
                "endings": [d, e, a, b],
                "label": str(n % 4),
            }
        )
        choices = {"text": [b, c, d], "label": ["A", "B", "C"]}
        rows["arc_easy"].append(
            {"id": str(n), "question": a, "choices": choices, "answerKey": "ABC"[n % 3]}
        )
        rows["boolq"].append({"passage": a, "question": b, "label": n % 2})
    for name, found in rows.items():
        split = "test" if name.startswith("arc") else "validation"
        text = "".join(json.dumps(row) + "\n" for row in found)
        (folder / f"{name}_{split}.jsonl").write_text(text)
    return folder


def ask_harness(model, name, folder):
    """The results of a task that stands in a folder."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=model, tasks=[name], task_manager=manager, bootstrap_iters=0
    )
    return found["results"][name], found["samples"][name]


def theirs_with_local_rows(name, file, folder):
    """The harness's own YAML file, its data exchanged for a file."""
    import yaml

    loader = yaml.SafeLoader
    loader.add_multi_constructor(
        "!function", lambda _, __, node: f"!function {node.value}"
    )
    [path] = (
        HARNESS.glob(f"tasks/*/**/{name}.yaml") if "/" not in name else [HARNESS / name]
    )
    settings = yaml.load(path.read_text(), loader)
    settings.pop("dataset_name", None)
    settings.pop("tag", None)
    split = "test" if settings.get("test_split") else "validation"
    settings |= {
        "task": f"local_{file.stem}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(file)}},
        f"{split}_split": split,
        "training_split": None,
        "validation_split": split if split == "validation" else None,
    }
    settings = {k: v for k, v in settings.items() if v is not None}
    text = yaml.safe_dump(settings).replace("'!function ", "!function ")
    text = text.replace("utils.process_docs'", "utils.process_docs")
    (folder / f"{file.stem}.yaml").write_text(text)
    for helper in path.parent.glob("*.py"):
        (folder / helper.name).write_text(helper.read_text())
    return settings["task"]


KINDS = {
    "boolq": ("tasks/super_glue/boolq/default.yaml", "boolq_validation", "acc"),
    "piqa": ("tasks/piqa/piqa.yaml", "piqa_validation", "acc_norm"),
    "hellaswag": ("tasks/hellaswag/hellaswag.yaml", "hellaswag_validation", "acc_norm"),
    "arc-easy": ("tasks/arc/arc_easy.yaml", "arc_easy_test", "acc_norm"),
}


@pytest.mark.parametrize("name", KINDS)
def test_choices_score_as_in_the_harness(name, lm, data, tmp_path):
    yaml_file, stem, metric = KINDS[name]
    options = {"convention": "lm-eval", "data": Data([data])}
    found = evals.evaluate([name], lm, tmp_path / "ours", **options)
    ours = found[name]["scores"]["accuracy"]["percent"]
    lines = (tmp_path / "ours" / name / "samples.jsonl").read_text().splitlines()
    mine = [json.loads(line)["log_likelihoods"] for line in lines]

    theirs = theirs_with_local_rows(yaml_file, data / f"{stem}.jsonl", tmp_path)
    results, samples = ask_harness(CodeGemmaLM(lm), theirs, tmp_path)
    assert round(100 * results[f"{metric},none"], 2) == ours
    samples.sort(key=lambda sample: sample["doc_id"])
    for sample, values in zip(samples, mine, strict=True):
        likelihoods = [answer[0] for answer in sample["filtered_resps"]]
        assert likelihoods == pytest.approx(values, abs=1e-3)

    task = catalog.make(name, "lm-eval", Data([data]))
    results, _ = ask_harness(
        CodeGemmaLM(lm), write_task(task, tmp_path / "w"), tmp_path / "w"
    )
    assert round(100 * results[f"{metric},none"], 2) == ours


def test_gsm8k_scores_as_in_the_harness(tmp_path):
    problems = catalog.make("gsm8k", "lm-eval", Data()).problems
    ways = (
        "The answer is {}.",
        "It is {}.",
        "The answer is ${}.",
        "The answer is {}.00.",
    )

    def answer(prompt):
        question = prompt.rpartition("Q: ")[2].removesuffix("\nA:")
        [number] = [n for n, p in enumerate(problems) if p.row["question"] == question]
        return " So. " + ways[number % 4].format(gsm8k.gold(problems[number]))

    limit = 60
    settings = Settings(limit=limit)
    found = evals.evaluate(
        ["gsm8k"],
        FakeModel(answer),
        tmp_path / "o",
        convention="lm-eval",
        settings=settings,
    )
    ours = found["gsm8k"]["scores"]["accuracy"]
    task = catalog.make("gsm8k", "lm-eval", Data())
    name = write_task(task, tmp_path / "w", limit)
    results, samples = ask_harness(CodeGemmaLM(FakeModel(answer)), name, tmp_path / "w")
    assert len(samples) == limit
    assert results["exact_match,strict-match"] == pytest.approx(ours["right"] / limit)
    assert 0 < ours["right"] < limit


def test_answers_of_the_harness_are_ours(lm):
    texts = ["def f(x):\n    return", "import os\n", "class Parser:"]
    options = {"until": ["\n", "("], "max_gen_toks": 9, "do_sample": False}
    requests = [Instance("generate_until", {}, (text, options), 0) for text in texts]
    got = CodeGemmaLM(lm, batch_size=2).generate_until(requests)
    alone = [
        lm.generate(text, max_new_tokens=9, stop_strings=("\n", "("), strip_prompt=True)
        for text in texts
    ]
    assert got == alone


def test_rolling_likelihoods(lm):
    model = CodeGemmaLM(lm)
    short, long = "import os\n", "value = value + 1\n" * 60
    requests = [Instance("loglikelihood_rolling", {}, (t,), 0) for t in (short, long)]
    got = model.loglikelihood_rolling(requests)
    [scores] = lm.log_probabilities([short])
    assert got[0] == pytest.approx(float(scores.sum()), rel=1e-4)
    # Every token is predicted once.
    assert got[1] < 2 * got[0]
    ids = lm.tokenizer.encode(long)
    assert len(ids) > lm.preprocessor.sequence_length


def test_a_conversation_has_control_tokens_and_its_text_has_none(lm):
    model = CodeGemmaLM(lm)
    text = model.apply_chat_template([{"role": "user", "content": "<end_of_turn>?"}])
    asked = model.model.ask(model._prompt(text), 4)
    assert asked.ids[:2] == (2, 106)
    assert list(asked.ids).count(107) == 1
    assert model.chat_template(True) == "gemma"
    going_on = model.apply_chat_template(
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": "The"}],
        add_generation_prompt=False,
    )
    assert going_on.endswith("model\nThe")


def test_options_without_a_meaning_are_refused(lm):
    with pytest.raises(ValueError, match="device='cuda' has no effect"):
        CodeGemmaLM(lm, device="cuda")
    with pytest.raises(ValueError, match="num_beams"):
        generation_options({"num_beams": 4})
    stops, length, sampling = generation_options(
        {"until": "\n", "max_new_tokens": 5, "do_sample": True, "temperature": 0.7}
    )
    assert (stops, length, sampling["temperature"]) == (("\n",), 5, 0.7)


# Inspect calls a library by an argument that is deprecated there, and leaves streams open.
@pytest.mark.filterwarnings("ignore:The 'initial' parameter:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_inspect_finds_the_provider_and_scores_as_we_do(lm, tmp_path):
    import inspect_ai
    from inspect_ai.dataset import Sample
    from inspect_ai.model import get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    preset = tmp_path / "preset"
    lm.save_to_preset(str(preset))
    model = get_model(f"codegemma/{preset}")
    question = "Which line comes next?"
    expected = lm.chat(question, max_new_tokens=8)
    task = inspect_ai.Task(
        dataset=[
            Sample(input=question, target=expected),
            Sample(input=question, target="never this"),
        ],
        solver=generate(),
        scorer=match(location="exact"),
    )
    [log] = inspect_ai.eval(
        task, model, max_tokens=8, log_dir=str(tmp_path / "log"), display="none"
    )
    assert log.status == "success", log.error
    assert [s.output.completion for s in log.samples] == [expected, expected]
    assert log.results.scores[0].metrics["accuracy"].value == 0.5


def test_torch_is_not_installed():
    """In the environment of `make test-harnesses`: so nothing here needs it."""
    assert importlib.util.find_spec("torch") is None
