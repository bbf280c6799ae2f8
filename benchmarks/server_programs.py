"""What compiling ahead costs a server: programs, seconds and memory.

    KERAS_BACKEND=jax python benchmarks/server_programs.py

A process of its own each: caches as short as their prompts, and the ones of a server, which
have 512 slots at least. Compiled are the programs for one editor. Nothing is taken from a
folder of compiled programs. Memory that was freed is given back to the system before what
is resident is read.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from _data import record
from _memory import resident_bytes

from codegemma_keras import CodeGemmaCausalLM
from codegemma_keras.decoding import Sampling
from codegemma_keras.decoding.cache import AS_NEEDED
from codegemma_keras.server import memory
from codegemma_keras.server.loading import LENGTH
from codegemma_keras.server.scheduler import least_of

WAYS = ("as short as their prompts", "of a server")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="smollm2_135m_code")
    parser.add_argument("--here", choices=WAYS, help="in a child")
    options = parser.parse_args()
    if options.here:
        print("RESULT" + json.dumps(measured(options)))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--preset", options.preset, "--here", way]
        environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        output = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        found[way] = json.loads(output.rpartition("RESULT")[2])
    record(f"server_programs_{options.preset}", found)


def measured(options):
    """Programs, seconds, and memory before and after."""
    lm = CodeGemmaCausalLM.from_preset(options.preset, dtype="float32")
    least = least_of(lm, 2**29) if options.here == "of a server" else AS_NEEDED
    memory.give_back()
    loaded, begin = resident_bytes(), time.perf_counter()
    programs = lm.engine.warm_up(
        min(LENGTH, lm.preprocessor.sequence_length),
        samplings=(Sampling(),),
        joining=True,
        prompts=1,
        least=least,
    )
    seconds = time.perf_counter() - begin
    memory.give_back()
    return {
        "programs": programs,
        "seconds": round(seconds),
        "mib_before": loaded // 2**20,
        "mib_after": resident_bytes() // 2**20,
    }


if __name__ == "__main__":
    main()
