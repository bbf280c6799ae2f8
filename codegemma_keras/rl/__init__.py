"""Reinforcement learning: what is sampled, what it is worth, and what is learnt of it.

    rollout             prompts -> groups of answers with their log-probabilities
    rewards             answers -> numbers, by functions with TRL's signature
    mathematics         whether an answer equals the right one
    losses              rewards -> advantages -> a loss of log-probabilities
    log_probabilities   of given tokens, with a gradient, without logits [B, T, V]
    update              answers as packed rows, and the step
    run, curve          the steps of a run, and what it shows

The recipe, with its settings, is `recipes/rl.py`.
"""
