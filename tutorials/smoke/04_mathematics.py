train_problems = 80
test_problems = 40  # every family is among them
epochs = 1
row_length = 128
least_learnt = -1.0
