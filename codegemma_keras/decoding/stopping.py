"""Where a completion ends."""

from collections.abc import Sequence

from keras import ops


def cut(text: str, stop_strings: Sequence[str]) -> tuple[str, bool]:
    """Text before the first occurrence of any stop string.

    Args:
        text: the completion.
        stop_strings: none may be empty.

    Returns:
        `(text, whether something was cut)`.

    Raises:
        ValueError: a stop string is empty.
    """
    if isinstance(stop_strings, str):
        stop_strings = [stop_strings]
    end = len(text)
    for stop in stop_strings:
        if not stop:
            raise ValueError(
                "A stop string is empty, which would stop everywhere. Remove it."
            )
        found = text.find(stop)
        if found >= 0:
            end = min(end, found)
    return text[:end], end < len(text)


def output_mask(token_ids, padding_mask, stop_token_ids):
    """Mask `[B, T]` of prompt and new tokens up to and with the first new stop."""
    if stop_token_ids is None:
        return ops.ones_like(token_ids, dtype="bool")
    is_stop = ops.any(
        token_ids[:, :, None] == ops.convert_to_tensor(list(stop_token_ids)), axis=-1
    )
    is_stop = ops.logical_and(is_stop, ops.logical_not(ops.cast(padding_mask, "bool")))
    is_stop = ops.cast(is_stop, "int32")
    return ops.cumsum(is_stop, axis=-1) - is_stop == 0
