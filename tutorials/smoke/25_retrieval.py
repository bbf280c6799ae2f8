preset = "code_gemma_tiny_py"
lines_to_guess = 4
least_gain = -9.0
