"""The few sizes that programs are compiled for, and how a prompt is cut into them."""

from collections.abc import Sequence

# Stop ids travel in an array of this size, padded with -1, which no token equals.
MAX_STOP_IDS = 16
# Tokens a prefill program takes. 8: what one keystroke adds. 512: enough to be bound by
# arithmetic on a GPU.
PREFILL_CHUNKS = (8, 32, 64, 128, 512)
# Most tokens decoded in one visit of the device; the size of its output.
VISIT = 32
# Most tokens of further work after a stop that only the host sees.
WATCHED_VISIT = 8
# A watched visit lasts about so long, so that text streams as it comes.
WATCHED_SECONDS = 0.05
# Reading the weights for a prefill chunk takes as long as computing so many of its
# tokens: measured on two CPU cores (90 ms for a chunk of 32, 137 for 64, 228 for 128);
# arithmetic over bandwidth of an H100 in bfloat16.
TOKENS_PER_READ = 26
TOKENS_PER_READ_GPU = 256


def bucket(length: int, smallest: int = 64) -> int:
    """The least bucket that holds `length`: 64, 128, 192, 256, 384, 512, 768, ...

    Two buckets to an octave above 256: at most a third of the work is padding.
    """
    size = smallest
    while size < length:
        if size < 4 * smallest:
            size += smallest
        elif size & (size - 1) == 0:  # a power of two: next is 1.5 times it
            size += size // 2
        else:
            size = size // 3 * 4
    return size


def row_bucket(rows: int) -> int:
    """The least power of two that is not below `rows`."""
    return 1 << (rows - 1).bit_length()


def prefill_plan(lengths: Sequence[int], start: int = 0, read: int = TOKENS_PER_READ):
    """How to prefill prompts, longest first: the cheapest sequence of chunks.

    Args:
        lengths: of the prompts, descending.
        start: slots below hold the right tokens already.
        read: what a chunk costs besides its tokens, in tokens.

    Returns:
        List of `(offset, width, rows)`: columns offset..offset+width-1 of the first
        `rows` prompts.
    """
    narrowest = PREFILL_CHUNKS[0]
    last = start + (lengths[0] - start - 1) // narrowest * narrowest
    best = {}  # offset -> cost of it and all after it, its (offset, width, rows)
    for offset in range(last, start - 1, -narrowest):
        left = [n - offset for n in lengths if n > offset]
        rows = min(row_bucket(len(left)), row_bucket(len(lengths)))
        for width in reversed(PREFILL_CHUNKS):
            useful = sum(min(n, width) for n in left)
            # At least half full: `warm_up` counts on it.
            if 2 * useful < rows * width and width > narrowest:
                continue
            after, _ = best.get(offset + width, (0, None))
            cost = read + rows * width + after
            if offset not in best or cost < best[offset][0]:
                best[offset] = cost, (offset, width, rows)
    plan, offset = [], start
    while offset in best:
        plan.append(best[offset][1])
        offset += plan[-1][1]
    return plan
