"""Files of models, in every format: where they are, what they hold, how they stream.

`hub` finds and fetches files. `keras_hub`, `transformers` and `gguf` read whole models:
each has a class with the same methods (`backbone_config`, `weights`, `tokenizer_config`,
`preprocessor_config`, `context`, `token_ids`), which `codegemma_keras.presets` puts to
use; the first two also write. `llama` is `gguf` for Llamas, re-expressed, and `smollm2`
makes the preset of one. `h5`, `safetensors`, `sentencepiece_model` and `tokenizer_json`
know one kind of file each. `weights` is the one table of tensor names and the stream of
tensors; `checks` is what every file goes through before it is believed.
"""
