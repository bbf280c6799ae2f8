"""What the benchmarks of adapters share: one that is used in part."""

import tempfile

from codegemma_keras import lora
from codegemma_keras.formats import peft


def use(lm, folder, scale=1.0):
    """Use an adapter of which the products `B @ A` are multiplied by `scale`.

    Its rows of control tokens stay as they are. Without a folder, nothing is used.
    """
    if folder is None:
        if scale != 1:
            raise SystemExit(f"--scale {scale} is of an adapter. Name it by --adapter.")
        return
    adapter = peft.read(folder)
    adapter.scales = {path: scale * value for path, value in adapter.scales.items()}
    with tempfile.TemporaryDirectory() as scaled:
        peft.write(scaled, adapter)
        lora.use(lm, scaled)
