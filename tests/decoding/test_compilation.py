"""Programs that stay on disk."""

import keras
import pytest

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import compilation
from tests.tiny_models import our_backbone


@pytest.fixture
def no_folder():
    """JAX as if it had been told of no folder; what it had been told comes back."""
    if keras.config.backend() != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    names = [
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def programs(folder):
    model = CodeGemmaCausalLM(our_backbone(num_layers=1))
    model.engine.generate([[5, 6]], 2)
    return [path for path in folder.rglob("jit_*-cache")]


def test_compiled_programs_are_kept_on_disk(tmp_path, no_folder):
    if keras.config.backend() != "jax":
        with pytest.raises(ValueError, match="on the JAX backend only"):
            compilation.keep_compiled(tmp_path)
        return
    compilation.keep_compiled(tmp_path / "compiled")
    assert len(programs(tmp_path)) >= 4


def test_the_cache_of_the_user_holds_them_by_processor(
    tmp_path, no_folder, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compilation, "CACHE_BYTES", 400_000)
    folder = compilation.keep_compiled_in_cache()
    if keras.config.backend() != "jax":
        assert folder is None
        assert not list(tmp_path.iterdir())
        return
    assert folder.parent == tmp_path / "codegemma_keras" / "compiled"
    kept = programs(tmp_path)
    assert kept
    assert {path.parent for path in kept} == {folder}
    assert sum(path.stat().st_size for path in kept) <= 400_000
    assert compilation.keep_compiled_in_cache() is None  # JAX has a folder already
    here = compilation._processor()
    monkeypatch.setattr(compilation.platform, "machine", lambda: "another")
    assert compilation._processor() != here


def test_a_cache_that_cannot_be_written_is_left_alone(tmp_path, no_folder, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compilation.keep_compiled_in_cache() is None
