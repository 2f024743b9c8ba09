"""`python -m unclip` is the command `unclip`."""

import sys

from unclip.cli import main

sys.exit(main())
