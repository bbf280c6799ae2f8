"""Files of models, in every format: where they are, what they hold, how they stream.

`hub` finds and fetches files; `keras_hub` and `transformers` read and write the two
formats of model folders; `weights` is the one table of tensor names and the stream of
tensors that all of them use. `codegemma_keras.presets` puts them together.
"""
