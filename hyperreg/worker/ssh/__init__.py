"""The worker on another computer, reached by ssh: who may log in there may compute there, and ssh encrypts the way.

application <- loopback, shared memory -> near end <- ssh -> far end <- loopback, shared memory -> worker

The near end runs here and looks to the application like a worker. The far end is `hyperreg worker` on the other
computer and looks to the worker there like an application. No port is opened, no token is handed over, and nothing of
the images stays there: they lie in the memory that the far end shares with its worker, and go with it.
"""
