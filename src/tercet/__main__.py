"""`python -m tercet`."""

import sys

from tercet.cli.main import main

sys.exit(main())
