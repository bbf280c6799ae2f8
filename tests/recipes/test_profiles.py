"""Profiles: settings that the recipes accept, each planned for its machine."""

import json
import pathlib
import shlex

import numpy as np
import pytest

from codegemma_keras import presets
from codegemma_keras.batches import pack
from codegemma_keras.recipes import profiles
from codegemma_keras.recipes.pretrain import PretrainConfig
from codegemma_keras.recipes.sft import SFTConfig
from codegemma_keras.training import model

PLANS = pathlib.Path(__file__).parents[2] / "benchmarks/results/profile_plans.json"
ALL = sorted(profiles.PROFILES)


@pytest.mark.parametrize("name", ALL)
def test_recipes_accept_a_profile(name):
    profile = profiles.find(name)
    for make, more in ((SFTConfig, {"data": "chats.jsonl"}), (PretrainConfig, {})):
        config = profile.config(make, out="runs/x", **more)
        assert config.preset in presets.PRESETS
        assert config.lora_rank == profile.lora_rank
        assert config.out == "runs/x"
    assert profile.config(SFTConfig, lora_rank=4).lora_rank == 4


@pytest.mark.parametrize("name", ALL)
def test_a_chat_profile_has_a_model_to_teach(name):
    assert profiles.find(name).options(chat=True)["preset"] in presets.PRESETS


def test_answers_may_want_another_learning_rate():
    smol = profiles.find("smol")
    assert smol.options(chat=True)["learning_rate"] == smol.chat_learning_rate
    assert smol.options()["learning_rate"] == smol.learning_rate


@pytest.mark.parametrize("name", [n for n in ALL if profiles.find(n).on])
def test_the_plan_of_a_profile_is_that_of_its_present_settings_and_fits(name):
    plan = json.loads(PLANS.read_text("utf-8"))[name]
    assert plan["command"] == profiles.find(name).command("plan sft", chat=True), (
        "The profile was changed: run benchmarks/profile_plans.py again."
    )
    assert plan["fits"]
    assert plan["loading_gib"] <= plan["usable_gib"]


def test_a_loaded_profile_trains_by_fit():
    lm, config = profiles.find("tiny").load(
        "mine", lora_rank=2, sequence_length=16, batch_tokens=32
    )
    assert config.lora_alpha == 4
    before = [v.numpy() for v in lm.trainable_variables]
    assert sum(v.size for v in before) < 100_000
    model.compile_model(lm, config, 2)
    lm.preprocessor = None
    row = lm.backbone.vocabulary_size // 2 * np.ones((2, 17), "int32")
    x, y, weight = pack([list(map(int, ids)) for ids in row], 16)
    lm.fit(x, y, sample_weight=weight, batch_size=2, epochs=2, verbose=0)
    changed = [
        not np.array_equal(old, new.numpy())
        for old, new in zip(before, lm.trainable_variables, strict=True)
    ]
    assert any(changed)


def test_a_command_has_the_options_of_the_profile():
    words = shlex.split(profiles.find("7b-l4").command("plan sft", chat=True))
    assert words[:3] == ["codegemma", "plan", "sft"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--preset"] == "code_gemma_1.1_instruct_7b_en"
    assert options["--quantize"] == "int8"
    assert options["--on"] == "l4"


def test_a_profile_says_in_one_line_what_it_does():
    line = str(profiles.find("7b-tpu"))
    assert "8 rows of 4,096 tokens" in line
    assert "v5e-8" in line
    assert "\n" not in line


def test_unknown_names_and_plans_of_a_cpu_are_refused():
    with pytest.raises(ValueError, match=r"'a100' is unknown.*2b-a100"):
        profiles.find("a100")
    with pytest.raises(ValueError, match="two CPU cores"):
        profiles.find("smol").command("plan sft")
