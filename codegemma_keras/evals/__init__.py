"""Evaluation: how well a model predicts and fills in code that it never saw.

Records in, records out: every function returns plain dictionaries that `json` can write,
one a task, and a summary made from them.
"""
