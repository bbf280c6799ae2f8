steps = 40
report_every = 20
least_gain = -3.0
