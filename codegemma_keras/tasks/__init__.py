"""Tasks with answers that can be checked: functions, small functions, mathematics."""
