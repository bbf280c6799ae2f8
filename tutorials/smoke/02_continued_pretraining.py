profile = "tiny"
most_files = 6
steps = 2
test_tasks = 4
test_files = 2
least_gain = -1.0
most_forgetting = 10.0
