train_problems = 80
test_problems = 9
epochs = 1
row_length = 128
rows_per_step = 4
most_before = 1.0
least_families = 0
