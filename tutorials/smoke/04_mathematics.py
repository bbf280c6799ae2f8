train_problems = 80
test_problems = 40  # every family is among them
epochs = 1
row_length = 128
rows_per_step = 4
most_before = 1.0
least_families = 0
