"""`codegemma-lm-eval`: the command line of lm-evaluation-harness, with our models in it.

    codegemma-lm-eval run --model codegemma-keras \\
        --model_args preset=code_gemma_tiny_py --tasks boolq
"""

from codegemma_keras.cli.process import choose_backend
from codegemma_keras.data.document import require
from codegemma_keras.quiet import quiet_libraries


def main() -> None:
    """Register `codegemma-keras`, then run the harness's own command line."""
    choose_backend()
    require("lm_eval", "evals")
    with quiet_libraries():
        import codegemma_keras.evals.lm_eval  # noqa: F401  registers
        from codegemma_keras.decoding.compilation import keep_compiled_in_cache

        keep_compiled_in_cache()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
