import sys

from codegemma_keras.cli import main

sys.exit(main())
