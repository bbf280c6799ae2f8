"""Programs kept on disk."""

import keras
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding.compilation import keep_compiled
from tests.tiny_models import our_backbone


def test_compiled_programs_are_kept_on_disk(tmp_path):
    if keras.config.backend() != "jax":
        with pytest.raises(ValueError, match="on the JAX backend only"):
            keep_compiled(tmp_path)
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    folder = tmp_path / "compiled"
    try:
        keep_compiled(folder)
        model = CodeGemmaCausalLM(our_backbone(num_layers=1))
        model.engine.generate([[5, 6]], 2)
        kept = {path.name for path in folder.iterdir()}
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert len([name for name in kept if name.startswith("jit_")]) >= 4
