"""One of several processes that train together; `test_several_hosts.py` runs it.

    python -m tests.hosts_program SETTINGS

`SETTINGS` is a JSON list of `SFTConfig` fields; the runs follow each other.
"""

import json
import sys

from codegemma_keras.recipes import sft
from codegemma_keras.training.interrupt import Interrupted

for fields in json.loads(sys.argv[1]):
    try:
        sft.train(sft.SFTConfig(**fields))
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
