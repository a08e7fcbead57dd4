"""`python -m hyperreg.worker`: the worker process; started by `hyperreg.worker.client`, not by hand."""

import os
import traceback

from hyperreg.machine import is_out_of_memory
from hyperreg.worker.process import EXIT_NO_MEMORY

if __name__ == "__main__":
    try:
        from hyperreg.worker.operations import standard_operations
        from hyperreg.worker.server import main

        main(standard_operations())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.print_exc()
        os._exit(EXIT_NO_MEMORY)
