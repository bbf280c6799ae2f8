preset = "code_gemma_tiny_py"
requests_per_client = 3
clients = (1, 2)
least_batch_gain = 0.0
