steps = 40
peak_rate = 2e-3
least_gain = 0.0
