files = 4
secrets_each = 1
epochs = 1
alternatives = 7
least_exposure = 0.0
least_drop = -9.0
