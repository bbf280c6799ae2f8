preset = "code_gemma_tiny_py"
