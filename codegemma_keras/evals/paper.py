"""What CodeGemma's report says of the official presets: Tables 2 to 5, in percent.

Source: "CodeGemma: Open Code Models Based on Gemma", arXiv 2406.11409v2.
"""

from collections.abc import Mapping

PRESETS = (
    "code_gemma_2b_en",
    "code_gemma_1.1_2b_en",
    "code_gemma_7b_en",
    "code_gemma_instruct_7b_en",
    "code_gemma_1.1_instruct_7b_en",
)
# Their names on the Hugging Face Hub, in Transformers' format.
HUB = {
    "codegemma-2b": "code_gemma_2b_en",
    "codegemma-1.1-2b": "code_gemma_1.1_2b_en",
    "codegemma-7b": "code_gemma_7b_en",
    "codegemma-7b-it": "code_gemma_instruct_7b_en",
    "codegemma-1.1-7b-it": "code_gemma_1.1_instruct_7b_en",
}
# None: not in the report.
SCORES = {
    "humaneval-infilling-single": (78.41, 79.28, 76.09, 68.25, 77.44),
    "humaneval-infilling-multi": (51.44, 50.99, 58.44, 20.05, 23.66),
    "humaneval": (31.1, 37.8, 44.5, 56.1, 60.4),
    "mbpp": (43.6, 49.2, 56.2, 54.2, 55.2),
    "gsm8k": (None, None, 44.2, 41.2, 47.3),
    "math": (None, None, 19.9, 20.9, 22.3),
    # Of 161 problems that BabelCode's authors translated; other translations differ.
    "babelcode-humaneval-cpp": (24.2, 19.9, 32.9, 42.2, 46.6),
    "babelcode-humaneval-csharp": (10.6, 26.1, 22.4, 26.7, 54.7),
    "babelcode-humaneval-go": (20.5, 18.0, 21.7, 28.6, 34.2),
    "babelcode-humaneval-java": (29.2, 29.8, 41.0, 48.4, 50.3),
    "babelcode-humaneval-javascript": (21.7, 28.0, 39.8, 46.0, 48.4),
    "babelcode-humaneval-kotlin": (28.0, 32.3, 39.8, 51.6, 47.8),
    "babelcode-humaneval-python": (21.7, 36.6, 42.2, 48.4, 54.0),
    "babelcode-humaneval-rust": (26.7, 24.2, 34.1, 36.0, 37.3),
}
# Table 2, seconds of all problems, one at a time, bfloat16, on one NVIDIA L4.
SECONDS = {
    "humaneval-infilling-single": (543, 771, 1505, 8330, 7579),
    "humaneval-infilling-multi": (8479, 9372, 22896, 49438, 46888),
}


# Problems of each task there; BabelCode's authors translated 161 of HumanEval's 164.
SIZES = {
    "humaneval-infilling-single": 1033,
    "humaneval-infilling-multi": 5815,
    "humaneval": 164,
    "mbpp": 500,
    "gsm8k": 1319,
    "math": 5000,
    **{task: 161 for task in SCORES if task.startswith("babelcode")},
}
HANDLES = ("kaggle://", "hf://")


def model(preset: str) -> str:
    """The name of a preset; of a handle its last part that is no version."""
    if not preset.startswith(HANDLES):
        return preset
    parts = [part for part in preset.split("/") if part and not part.isdigit()]
    return HUB.get(parts[-1], parts[-1])


def of(table, task: str, preset: str | None):
    """The figure of a task and a preset, or None."""
    name = model(preset or "")
    if name not in PRESETS or task not in table:
        return None
    return table[task][PRESETS.index(name)]


def beside(table, run: Mapping):
    """The figure that may stand beside a run's, or None.

    None where the run has another number of problems than the report, or asked otherwise.

    Args:
        table: `SCORES` or `SECONDS`.
        run: what `scores.json` holds.
    """
    task = run["task"]
    if run["convention"] != "paper" or run["problems"] != SIZES.get(task):
        return None
    return of(table, task, run["preset"])
