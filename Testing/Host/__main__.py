"""``python -m Testing.Host``: see run.py."""

import sys

from .run import main

sys.exit(main())
