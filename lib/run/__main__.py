"""python -m lib.run: what the Makefile calls."""

import sys

from lib.run.commands import main

sys.exit(main())
