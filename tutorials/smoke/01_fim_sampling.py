timed_requests = 3
keystrokes = 6
max_new_tokens = 8
preset = "code_gemma_tiny_py"
