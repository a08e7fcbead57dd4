"""Errors whose message is written for the user: what was wrong, and what to do about it."""


class HyperRegError(Exception):
    """Base of every error that HyperReg raises on purpose; `str(error)` can be shown to the user as it is."""


class InputError(HyperRegError):
    """An image, label map, transform or parameter cannot be used (wrong dimension, empty, sheared, out of range...)."""


class FileError(HyperRegError):
    """A file cannot be read or written (missing, cut, unknown format, disk full, read-only)."""


class WeightsError(HyperRegError):
    """A model's weights or card are missing, damaged or do not belong together."""


class OutOfMemory(HyperRegError):
    """The device has not enough memory, even after the fall-backs that HyperReg knows."""


class Cancelled(HyperRegError):
    """The user cancelled; nothing was changed."""


class WorkerError(HyperRegError):
    """The worker process died or could not be started."""


class SessionLost(WorkerError):
    """The request builds on a preparation that this worker has not seen."""
