"""Training: the loop, checkpoints, schedules, progress, and what hardware can do."""
