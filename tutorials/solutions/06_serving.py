# ruff: noqa: F821 - names that the chapter defines


# %% tags=["exercise"]
def events(data):
    parts = data.decode().split("\n\n")
    texts = [part.removeprefix("data: ") for part in parts if part]
    return [json.loads(text) for text in texts if text != "[DONE]"]


sample = b'data: {"n": 1}\n\ndata: {"n": 2}\n\ndata: [DONE]\n\n'
found = events(sample)
assert found is not None, "Hint: events are separated by an empty line."
assert found == [{"n": 1}, {"n": 2}], "Hint: leave out the event [DONE]."


# %% tags=["exercise"]
def waits(seconds):
    return np.percentile(np.array(seconds) * 1000, [50, 99])


found = waits([0.1] * 98 + [0.5, 2.0])
assert found is not None, "Hint: np.percentile(values, [50, 99])."
assert abs(found[0] - 100) < 1e-6, "Hint: one second has a thousand milliseconds."
assert found[1] > 500, "Hint: the 99th percentile is nearly the longest."
