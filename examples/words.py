"""Words, with the body of one function missing: `make demo` fills it in."""


def count_words(text):
    """How often each word occurs in a text, as a dictionary."""
    counts = {}
    words = text.lower().split()
    
    return counts


def longest_word(text):
    return max(text.split(), key=len)
