# %% [markdown]
# # Reinforcement learning
#
# CodeGemma's instruct models were improved with reinforcement learning: the model writes
# answers, something scores them, and the model is trained towards those that scored well.
# For code and mathematics a program can give the score, so no person has to.
#
# In this notebook you derive the method on paper and check it with three numbers. Then
# you apply it to a small model that is right only now and then, and see on problems it
# never met whether it learnt anything. A second run, with scores that are exchanged
# between answers, shows what the same training does without information.
#
# You should know what a prompt and a loss are; notebooks 03 and 04 explain fine-tuning.

# %% tags=["parameters"]
families = ("plus", "times", "filter", "scale")  # of small functions
worked_problems = 480  # with answers, to tune the model on before
mistakes = 0.5  # share of these answers that are wrong
tuning_epochs = 3
tuning_rate = 2e-3
isolation = "bubblewrap"  # the weakest sandbox that is allowed on your own machine
steps = 20  # of reinforcement learning; each takes about 8 s on two CPU cores
prompts_per_step = 8
group_size = 8  # answers to each prompt
learning_rate = 2e-3  # of an adapter of a small model; a large one wants 5e-5
new_tokens = 64  # at most, of an answer
test_problems = 60
test_samples = 8  # answers to each of them
least_gain = 0.15  # of pass@1, which the last cell asserts
least_gap = 0.0  # of its interval after, above those before and of the control

# %% [markdown]
# ## The idea, with three answers
#
# Suppose a model can give only three answers to a question. It chooses answer $i$ with
# probability $p_i$, and the answer has the reward $r_i$. We want to raise the expected
# reward
#
# $$J = \sum_i p_i \, r_i.$$
#
# The probabilities come from parameters $\theta$ (for a language model, from its
# weights). The gradient of $J$ is $\sum_i r_i \nabla p_i$. We cannot compute this sum for
# a language model, because it has far too many possible answers. But
# $\nabla p_i = p_i \nabla \log p_i$, and so
#
# $$\nabla J = \sum_i p_i \, r_i \, \nabla \log p_i.$$
#
# This is an average over answers that are chosen with probability $p_i$. We can estimate
# it: sample answers, and average $r \nabla \log p$ over them. The method is called
# REINFORCE (Williams, 1992).
#
# We may also subtract a number $b$ from all rewards. This changes nothing on average,
# since $\sum_i p_i \nabla \log p_i = \nabla \sum_i p_i = \nabla 1 = 0$. But it can make
# the estimate much less noisy. The number is called a *baseline*, and $r - b$ the
# *advantage*.
#
# Let us check all of this with numbers. For a softmax, the gradient of $\log p_i$ is a
# vector with $1 - p_i$ at place $i$ and $-p_j$ elsewhere.

# %%
import time

import numpy as np

started = time.perf_counter()
theta = np.array([0.5, 0.0, -1.0])
rewards_of_answers = np.array(
    [10.0, 11.0, 10.0]
)  # the second answer is a little better
p = np.exp(theta) / np.exp(theta).sum()
gradient_of_log = np.eye(3) - p  # row i: the gradient of log p_i
exact = (p * rewards_of_answers) @ gradient_of_log

rng = np.random.default_rng(0)
chosen = rng.choice(3, size=20_000, p=p)
plain = rewards_of_answers[chosen, None] * gradient_of_log[chosen]
baseline = p @ rewards_of_answers
better = (rewards_of_answers[chosen, None] - baseline) * gradient_of_log[chosen]

print("exact gradient        ", exact.round(3))
print("estimate              ", plain.mean(axis=0).round(3))
print("estimate with baseline", better.mean(axis=0).round(3))
noise = plain.std(axis=0).mean(), better.std(axis=0).mean()
print(f"standard deviation of one sample: {noise[0]:.2f}, with baseline {noise[1]:.2f}")

# %% [markdown]
# Both estimates are right on average. But without a baseline, one sample has so much
# noise that thousands of samples are needed. All rewards are about 10, so every sampled
# answer is pushed up strongly, and only the small difference between the pushes carries
# information.
#
# For a language model we take the baseline from a *group*: several answers to the same
# prompt. The baseline of an answer is the mean reward of the other answers in its group.
#
# ## A model that is right now and then
#
# Reinforcement learning needs answers of both kinds. If all answers of a group are wrong,
# or all are right, there is nothing to compare.
#
# We make such a model from imperfect data, as people write it. It is tuned on small
# functions, half of which have a mistake: a minus where a plus belongs, or a comparison
# the wrong way round. A model that imitates these answers learns both habits and cannot
# know which one is right. A program that runs the tests can.

# %%
import json
import pathlib
import re

from codegemma_keras.recipes import rl, sft
from codegemma_keras.tasks import programs, small_functions

OTHER = {"+": "-", "-": "+", "*": "+", ">": "<", "<": ">"}  # the operator of a mistake
rng = np.random.default_rng(0)
conversations = []
while len(conversations) < worked_problems:
    family = families[len(conversations) % len(families)]
    task = small_functions.generate(family, rng)
    if programs.is_held_out((family, programs.rule_of(task))):
        continue  # the test asks for these
    conversation = task.messages()
    if rng.random() < mistakes:
        conversation[1]["content"] = re.sub(
            r" ([-+*<>]) ",
            lambda found: f" {OTHER[found[1]]} ",
            conversation[1]["content"],
        )
    conversations.append(conversation)
lines = [json.dumps({"messages": conversation}) for conversation in conversations]
pathlib.Path("worked.jsonl").write_text("\n".join(lines) + "\n")
for message in conversations[0]:
    print(message["content"])

config = sft.SFTConfig(
    data="worked.jsonl",
    out="tuned",
    preset="code_gemma_tiny_py",
    lora_rank=0,
    sequence_length=256,
    batch_tokens=1024,
    epochs=tuning_epochs,
    learning_rate=tuning_rate,
    held_out=0.0,
    log_every=25,
    evaluate_every=0,
)
tuned = sft.train(config)

# %% [markdown]
# ## Where the programs run
#
# No person has read the programs that a model writes, so they run in a sandbox. It is a
# process of its own with limits on time and memory. The level `"bubblewrap"` also gives it
# no network and no file that it could change. The level `"namespaces"` gives it no network,
# but it could change your files. The level `"limits"` has nothing but the limits.
#
# On your own machine, this notebook asks for the level in the parameter `isolation`. Colab
# and Kaggle lend you a machine that is thrown away afterwards, and it may not allow the
# stronger levels. There, the notebook takes the strongest level that works. Do not mount
# your Drive in such a session, because a program could change its files. The next cell
# prints which level is used, and why. If only a weaker level works on your own machine, the
# cell stops and says what to do.

# %%
from codegemma_keras import sandbox
from codegemma_keras.recipes import hosted
from codegemma_keras.sandbox import levels

if hosted.where() == "here":
    why = f"isolation={isolation!r} is the least allowed on your own machine"
else:
    isolation = sandbox.isolation()
    why = f"{hosted.where()} throws this machine away, so the strongest that works will do"
print(f"Programs run in {levels.accepted(isolation)!r}: {why}.")

# %% [markdown]
# ## Groups, rewards and advantages
#
# We sample eight answers to each of two tasks, score them, and compute their advantages.
# `rollout.sample` uses the same decode engine as `generate`, and also keeps the
# log-probability of every token. The reward `tests` takes the program out of an answer and
# runs it in the sandbox with tests that the model has not seen. It is 1 if all of them pass.

# %%
from codegemma_keras.rl import losses, rewards, rollout
from codegemma_keras.tasks import prompts

# %%
names = tuple(f"functions/{family}" for family in families)
asked = prompts.made(names, 2, seed=1)
groups = rollout.sample(tuned, asked, group_size, new_tokens, seed=1)
with rewards.opened(["tests"], isolation) as judges:
    each = [prompt for prompt in asked for _ in range(group_size)]
    texts = [answer.text for group in groups for answer in group]
    table = rewards.score(judges, each, texts).reshape(len(asked), group_size)
advantages = losses.against_others(table)
for prompt, group, reward, advantage in zip(
    asked, groups, table, advantages, strict=True
):
    print(prompt.text)
    for answer, r, a in zip(group, reward, advantage, strict=True):
        lines = [line.strip() for line in answer.text.split("\n")]
        last = next((line for line in lines if line.startswith("return")), lines[-1])
        print(f"   reward {r:.0f}  advantage {a:+.2f}   ... {last}")

# %% [markdown]
# An answer of a group with many right answers has a small advantage if it is right, and a
# large negative one if it is wrong. In a group without a right answer, all advantages are
# zero, and the group does not change the model.
#
# ## Before the training
#
# *pass@1* is the share of sampled answers that are right. *pass@8* is the share of
# problems that at least one of eight answers solves. If only pass@1 rises, the model has
# become more certain of what it could do before. We measure both on problems with numbers
# that are in no training set.

# %%
test = prompts.made(names, test_problems, seed=7, held_out=True)


def score(lm):
    """bool `[problems, samples]`: which answers to the test problems are right."""
    groups = rollout.sample(lm, test, test_samples, new_tokens, seed="test")
    each = [prompt for prompt in test for _ in range(test_samples)]
    texts = [answer.text for group in groups for answer in group]
    with rewards.opened(["tests"], isolation) as judges:
        return rewards.score(judges, each, texts).reshape(len(test), -1) > 0.5


def interval(values):
    """`(low, mean, high)`: the middle 95 % of the means of resampled problems."""
    rng = np.random.default_rng(0)
    means = [rng.choice(values, len(values)).mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return low, np.mean(values), high


right = {"before": score(tuned)}
print(f"pass@1 {right['before'].mean():.1%}")
print(f"pass@{test_samples} {right['before'].any(axis=1).mean():.1%}")
del tuned

# %% [markdown]
# ## Training
#
# `rl.train` repeats the following steps: sample a group of answers to each of eight
# prompts, score them, compute the advantages, and update the weights. Only an adapter
# (LoRA) is trained. The adapter can be switched off, and this gives the first model at no
# cost. The divergence from the first model is subtracted from the reward, so that the
# model does not forget everything that is not rewarded.


# %%
def settings(name):
    return rl.RLConfig(
        preset="tuned/preset",
        out=name,
        tasks=names,
        rewards=("tests",),
        isolation=isolation,
        steps=steps,
        prompts_per_step=prompts_per_step,
        group_size=group_size,
        max_new_tokens=new_tokens,
        learning_rate=learning_rate,
        evaluate_every=0,
        silent_steps=steps + 1,  # never stop early
    )


trained = rl.train(settings("rl"))
right["after"] = score(trained)
del trained

# %% [markdown]
# Each line shows the mean reward, the share of silent groups (which teach nothing), the
# divergence from the first model (KL, in nats for each token), the entropy (how undecided
# the model is at each token), and the length of the answers.
#
# ## A control
#
# A curve that rises proves little. Any training changes a model, and here the model might
# only have learnt to write answers in the usual form. So we train once more in the same
# way, but before the update the rewards of a step change places at random. The number of
# good answers is the same, but the reward no longer says which ones were good.


# %%
def shuffled(reward):
    """A reward whose values change places among the answers of a step."""
    rng = np.random.default_rng(0)

    def judge(prompts, completions, **columns):
        return rng.permutation(reward(prompts, completions, **columns)).tolist()

    return judge


config = settings("control")
train_prompts, _ = rl.prompts_of(config)
with rewards.opened(config.rewards, config.isolation) as judges:
    judges = [(weight, name, shuffled(reward)) for weight, name, reward in judges]
    control = rl.run(config, train_prompts, [], judges)
right["control"] = score(control)
del control

# %% [markdown]
# ## Results

# %%
import matplotlib.pyplot as plt

from codegemma_keras.rl.curve import read

colours = {"before": "#7f7f7f", "after": "#1f77b4", "control": "#d62728"}
figure, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for folder, name in (("rl", "after"), ("control", "control")):
    curve = [row["reward"] for row in read(pathlib.Path(folder) / "curve.csv")]
    width = min(5, len(curve))
    smooth = np.convolve(curve, np.ones(width) / width, "valid")
    left.plot(np.arange(len(smooth)) + width, smooth, color=colours[name], label=name)
left.set(xlabel="step", ylabel=f"reward, mean of {width} steps", ylim=(0, 1))
left.legend(frameon=False)
pass_1, pass_k = {}, {}
for place, (name, found) in enumerate(right.items()):
    pass_1[name] = interval(found.mean(axis=1))
    pass_k[name] = interval(found.any(axis=1))
    for shift, (low, mean, high) in ((0, pass_1[name]), (4, pass_k[name])):
        at = place + shift
        middle.bar(at, mean, color=colours[name], width=0.8)
        middle.plot([at, at], [low, high], color="black", linewidth=1.5)
middle.set(ylim=(0, 1), ylabel="held-out problems, 95 % intervals")
middle.set_xticks([1, 5], ["pass@1", f"pass@{test_samples}"])
plt.show()
for name in right:
    low, mean, high = pass_1[name]
    print(
        f"{name:8} pass@1 {mean:.1%} [{low:.1%}, {high:.1%}], "
        f"pass@{test_samples} {pass_k[name][1]:.1%}"
    )

# %% [markdown]
# ## What a reward pays for
#
# A model finds whatever raises its reward, and that is not always what you had in mind.
# Suppose the reward were 1 for an answer that *contains* the right number. A model would
# soon learn to write many numbers. Here are four answers to *What is 12 + 16?*, scored by
# such a reward and by the package's reward `answer`, which compares the final number:

# %%
tricks = [
    "Answer: 28",
    "Answer: 26 27 28 29 30",
    "The answer is one of " + ", ".join(str(n) for n in range(10, 99)),
    "Answer: whatever is right",
]
question = prompts.Prompt("maths/sum", "What is 12 + 16?", columns={"answer": "28"})
with rewards.opened(["answer"], "limits") as judges:
    strict = rewards.score(judges, [question] * len(tricks), tricks)
for text, value in zip(tricks, strict, strict=True):
    print(f"contains 28: {'28' in text!s:5}   reward {value:.0f}   {text[:50]}")

# %% [markdown]
# For programs there are more tricks. A program could end before its tests run, or change
# what `==` means. The package therefore runs tests in another process than the program,
# and takes the verdict outside of both.
#
# ## Exercises
#
# Each of the next cells fails on purpose, with a hint, until you have filled it in. The
# solutions are in `tutorials/solutions/05_reinforcement_learning.py`.
#
# **1.** Write the advantages of GRPO (DeepSeekMath, 2024): the reward less the mean of its
# group, divided by the standard deviation of the group (with $G - 1$ in the denominator)
# plus $10^{-4}$.


# %% tags=["exercise"]
def grpo_advantages(rewards):
    return None  # your lines


group = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
found = grpo_advantages(group)
assert found is not None, (
    "Hint: group.mean(axis=1, keepdims=True) keeps the shape [P, 1]."
)
assert np.allclose(found, losses.standardised(group), atol=1e-6), (
    "Hint: np.std divides by G unless you give ddof=1."
)

# %% [markdown]
# **2.** A group whose rewards are all equal teaches nothing. `rewards` has one row for each
# group, like `table` above. Compute the share of such groups.


# %% tags=["exercise"]
def silent_share(rewards):
    return None  # your lines


group = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
found = silent_share(group)
assert found is not None, (
    "Hint: compare the largest and the smallest reward of each row."
)
assert found == 0.5, "Hint: two of these four groups have equal rewards."

# %% [markdown]
# ## On a real model
#
# A model that can already answer needs no tuning on mistakes, so the recipe alone is
# enough. First ask whether it fits on your GPU, and then run it:
#
#     codegemma plan rl --preset code_gemma_1.1_2b_en --data gsm8k_train.jsonl.gz \
#         --dtype bfloat16 --sequence-length 512 --remat block --accumulation 8 --on a100-40
#     codegemma rl --preset code_gemma_1.1_2b_en --data gsm8k_train.jsonl.gz \
#         --dtype bfloat16 --remat block --accumulation 8 --out runs/maths
#
# For an A100 with 40 GB, the first command finds 8.5 GiB for an update. A model of this
# size wants a smaller learning rate than ours: the default of the recipe is 5e-5.
#
# ## Summary
#
# You derived the gradient of an expected reward, and saw why a baseline makes its
# estimate usable. A small model that had learnt right and wrong habits from its data gave up
# the wrong one, on numbers that no training showed. With exchanged rewards it only drifted,
# because each update moves the weights, whatever the reward says. Here the score of the
# control rose from 41 % to 59 %. With seed 1 in `default_rng` and as `seed` of
# `rl.RLConfig`, it ended at 18 %, and with seed 2 at 43 %. So a single control can mislead
# you as well, and a difference between two runs means little until you have repeated both.
# `docs/rl.md` has the other losses (GRPO, DAPO, GSPO, DPO), rewards that run programs, and
# the settings for real models; `codegemma rl --help` lists every option.

# %%
import os
import resource

print(
    f"{(time.perf_counter() - started) / 60:.1f} minutes on {os.cpu_count()} CPU cores, at "
    f"most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB of memory"
)
assert np.abs(better.mean(axis=0) - exact).max() < 0.02
assert noise[1] < noise[0] / 5
assert strict.tolist() == [1, 0, 0, 0]
assert pass_1["after"][1] - pass_1["before"][1] >= least_gain
assert pass_1["after"][0] - pass_1["before"][2] >= least_gap
assert pass_1["after"][0] - pass_1["control"][2] >= least_gap

# %% [markdown]
# ## Further reading
#
# * [Back to basics](https://arxiv.org/abs/2402.14740) shows that REINFORCE with a leave-one-out
#   baseline (RLOO) does at least as well as PPO on language models. REINFORCE itself is from
#   Williams, 1992.
# * [DeepSeekMath](https://arxiv.org/abs/2402.03300) introduced GRPO, with rewards that a
#   program can check.
# * [DAPO](https://arxiv.org/abs/2503.14476) mends weaknesses of GRPO in long runs, and gives
#   all its settings.
