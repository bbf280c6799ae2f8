"""What CodeGemma's report says of the official presets: Tables 2 to 5, in percent.

Source: "CodeGemma: Open Code Models Based on Gemma", arXiv 2406.11409v2.
"""

PRESETS = (
    "code_gemma_2b_en",
    "code_gemma_1.1_2b_en",
    "code_gemma_7b_en",
    "code_gemma_instruct_7b_en",
    "code_gemma_1.1_instruct_7b_en",
)
# None: not in the report.
SCORES = {
    "humaneval-infilling-single": (78.41, 79.28, 76.09, 68.25, 77.44),
    "humaneval-infilling-multi": (51.44, 50.99, 58.44, 20.05, 23.66),
    "humaneval": (31.1, 37.8, 44.5, 56.1, 60.4),
    "mbpp": (43.6, 49.2, 56.2, 54.2, 55.2),
    "gsm8k": (None, None, 44.2, 41.2, 47.3),
    "math": (None, None, 19.9, 20.9, 22.3),
}
# Table 2, seconds of all problems, one at a time, bfloat16, on one NVIDIA L4.
SECONDS = {
    "humaneval-infilling-single": (543, 771, 1505, 8330, 7579),
    "humaneval-infilling-multi": (8479, 9372, 22896, 49438, 46888),
}


def of(table, task: str, preset: str | None):
    """The figure of a task and a preset, or None."""
    if preset not in PRESETS or task not in table:
        return None
    return table[task][PRESETS.index(preset)]
