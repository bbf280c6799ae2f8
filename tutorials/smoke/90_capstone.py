test_files = 2
test_tasks = 3
recipe = {"steps": 2, "learning_rate": 1e-3, "replay": 0.0}
resamples = 50
least_words = 1
