"""Goldens of the losses of reinforcement learning, from TRL itself.

    make rl-goldens        # TRL 1.16 in an environment of its own; writes tests/golden/

TRL's own `_compute_loss` of its GRPO, RLOO and DPO trainers is called on random
log-probabilities. Only the network is replaced: it gives the tensors instead of computing
them. Advantages are those of the trainers' formulas, written out here in PyTorch.
"""

import collections
import datetime
import json
import pathlib
import types

import torch
import trl
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

OUT = pathlib.Path(__file__).parents[1] / "tests" / "golden" / "rl_losses.json"
PROMPTS, GROUP, LENGTH = 3, 4, 7
LIMIT = 9  # tokens that an answer may have; rows are LENGTH wide
# name -> loss_type, level of importance sampling, low, high, beta
GRPO = {
    "grpo": ("grpo", "token", 0.2, 0.2, 0.04),
    "dr_grpo": ("dr_grpo", "token", 0.2, 0.2, 0.04),
    "dapo": ("dapo", "token", 0.2, 0.28, 0.0),
    "gspo": ("grpo", "sequence", 3e-4, 4e-4, 0.04),
}


class Accelerator:
    """Of one process."""

    num_processes = 1
    sync_gradients = True
    device = torch.device("cpu")

    def gather(self, value):
        return value

    gather_for_metrics = gather

    def reduce(self, value, reduction="sum"):
        return value


def trainer(now, **settings):
    """What `_compute_loss` reads of a trainer, with `now` for the network's output."""
    known = {
        "_get_per_token_logps_and_entropies": lambda *a, **k: (
            now,
            torch.zeros_like(now),
            None,
        ),
        "accelerator": Accelerator(),
        "model": types.SimpleNamespace(training=True),
        "_metrics": collections.defaultdict(lambda: collections.defaultdict(list)),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "_entropy_bonus_enabled": False,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": LIMIT,
        "args": types.SimpleNamespace(
            delta=None, use_bias_correction_kl=False, steps_per_generation=1
        ),
        **settings,
    }
    return types.SimpleNamespace(**known)


def main():
    made = tensors()
    losses = {}
    for name in (*GRPO, "reinforce", "dpo"):
        now = made["now"].clone().requires_grad_()
        if name in GRPO:
            loss, knobs = grpo(now, made, *GRPO[name])
        else:
            loss, knobs = {"reinforce": reinforce, "dpo": dpo}[name](now, made)
        loss.backward()
        losses[name] = {
            **knobs,
            "loss": loss.item(),
            "gradient": now.grad.tolist(),
        }
    result = {
        "command": "make rl-goldens",
        "trl": trl.__version__,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "limit": LIMIT,
        "tensors": {name: value.tolist() for name, value in made.items()},
        "losses": losses,
    }
    OUT.write_text(json.dumps(result) + "\n")
    print(f"{OUT}: {', '.join(losses)}")


def tensors():
    """Log-probabilities of an update that is far from its rollout, so that clips count."""
    generator = torch.Generator().manual_seed(3)
    count = PROMPTS * GROUP

    def normal(scale):
        return scale * torch.randn(count, LENGTH, generator=generator)

    old = -torch.rand(count, LENGTH, generator=generator) * 3 - 0.05
    lengths = torch.randint(1, LENGTH + 1, (count,), generator=generator)
    mask = (torch.arange(LENGTH)[None] < lengths[:, None]).float()
    rewards = torch.randint(0, 3, (PROMPTS, GROUP), generator=generator).float()
    rewards[1] = 1.0  # a group without signal
    return {
        "old": old,
        "now": old + normal(0.2),
        "reference": old + normal(0.3),
        "mask": mask,
        "rewards": rewards,
    }


def inputs(made, advantages):
    empty = torch.zeros(PROMPTS * GROUP, 0, dtype=torch.long)
    return {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": made["mask"].long(),
        "completion_mask": made["mask"],
        "advantages": advantages,
        "old_per_token_logps": made["old"],
        "ref_per_token_logps": made["reference"],
        "num_items_in_batch": made["mask"].sum(),
        "old_logps": (made["old"] * made["mask"]).sum(1),
    }


def grpo(now, made, loss_type, level, low, high, beta):
    rewards = made["rewards"]
    advantages = rewards - rewards.mean(1, keepdim=True)
    if loss_type != "dr_grpo":
        advantages = advantages / (rewards.std(1, keepdim=True) + 1e-4)
    itself = trainer(
        now,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=low,
        epsilon_high=high,
        beta=beta,
    )
    advantages = advantages.flatten()
    loss = GRPOTrainer._compute_loss(itself, None, inputs(made, advantages))
    knobs = {"low": low, "high": high, "beta": beta}
    return loss, {**knobs, "advantages": advantages.tolist()}


def reinforce(now, made, low=0.2, high=0.2, beta=0.05):
    far = ((made["old"] - made["reference"]) * made["mask"]).sum(1)
    rewards = made["rewards"] - beta * far.view(PROMPTS, GROUP)
    others = (rewards.sum(1, keepdim=True) - rewards) / (GROUP - 1)
    advantages = (rewards - others).flatten()
    itself = trainer(now, epsilon_low=low, epsilon_high=high)
    loss = RLOOTrainer._compute_loss(itself, None, inputs(made, advantages))
    knobs = {"low": low, "high": high, "beta": beta}
    return loss, {**knobs, "advantages": advantages.tolist()}


def dpo(now, made, beta=0.1):
    """Pairs of the first answer of each half: TRL's batch is all chosen, all rejected."""
    half = PROMPTS * GROUP // 2
    mask = torch.cat([torch.zeros(2 * half, 1), made["mask"]], dim=1)
    reference = (made["reference"] * made["mask"]).sum(1)
    itself = trainer(
        now,
        beta=beta,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        label_smoothing=0.0,
        use_weighting=False,
        _total_train_tokens=0,
        _tp_size=1,
    )
    nothing = torch.zeros_like(now)  # what it only logs
    output = types.SimpleNamespace(
        log_probs=now * made["mask"],
        entropy=nothing,
        mean_logits=nothing,
        is_top1=nothing.bool(),
    )
    given = {
        "input_ids": mask.long(),
        "attention_mask": mask.long(),
        "completion_mask": mask,
        "ref_chosen_logps": reference[:half],
        "ref_rejected_logps": reference[half:],
    }
    loss = DPOTrainer._compute_loss(itself, lambda **_: output, given, False)
    return loss, {"low": 0.0, "high": 0.0, "beta": beta}


if __name__ == "__main__":
    main()
