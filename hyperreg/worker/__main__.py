"""`python -m hyperreg.worker`: the worker process; started by `hyperreg.worker.client`, not by hand."""

from hyperreg.worker.operations import standard_operations
from hyperreg.worker.server import main

if __name__ == "__main__":
    main(standard_operations())
