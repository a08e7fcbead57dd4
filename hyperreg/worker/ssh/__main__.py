"""`python -m hyperreg.worker.ssh ADDRESS`: the near end; started by `hyperreg.worker.client`, not by hand."""

import sys

from hyperreg.worker.server import read_greeting
from hyperreg.worker.ssh.near import main

if __name__ == "__main__":
    main(sys.argv[1], read_greeting())
