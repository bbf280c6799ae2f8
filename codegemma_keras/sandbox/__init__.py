"""Running programs that a model wrote, shut in and with limits."""
