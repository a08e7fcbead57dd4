"""Where the other computer is, and how it is called."""

from __future__ import annotations

import re
import subprocess
import sys

from hyperreg.errors import InputError, WorkerError

# Neither part can be taken for an option of ssh or hold anything that a shell would interpret.
_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.@-]*)(?::(?P<program>[A-Za-z0-9_.~/][A-Za-z0-9_.~/+-]*))?")
_PROGRAM = "hyperreg"
# BatchMode: there is nobody to type a password into a program without a terminal.
_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
# What ssh and the shell there end with.
_SSH_FAILED, _NOT_FOUND = 255, 127


def host_of(address: str) -> str:
    """The part of the address that ssh is given. Raises InputError for what is no address."""
    return _parts(address)[0]


def ssh_command(address: str) -> list[str]:
    """The command that runs the far end.

    address: [user@]host[:program]; program: that of HyperReg there, where the shell does not find `hyperreg`. Ports,
    keys and computers in between are set in ssh's own configuration, under a name that can be the host here.
    Raises InputError for what is no address.
    """
    host, program = _parts(address)
    return ["ssh", *_OPTIONS, "--", host, f"{program} worker"]


def start_ssh(address: str) -> subprocess.Popen[bytes]:
    """Calls the other computer. Raises InputError for what is no address, WorkerError if there is no ssh here."""
    command = ssh_command(address)
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW
    try:
        return subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=flags,
        )
    except OSError as error:
        raise WorkerError(f"Another computer is reached by ssh, which cannot be started here: {error}.") from error


def explain(address: str, code: int | None, complaint: str) -> str:
    """Why there is no connection, for the user. code: what ssh ended with; complaint: what it printed last."""
    host, program = _parts(address)
    if code == _NOT_FOUND:
        return (
            f"HyperReg was not found on '{host}' as '{program}'. Install it there, or say where it is: "
            f"{host}:/folder/bin/hyperreg."
        )
    if code == _SSH_FAILED:
        return (
            f"'{host}' cannot be reached by ssh: {complaint.rstrip('.') or 'no reason was given'}. "
            f"'ssh {host}' in a terminal has to work without a password (a key, and once by hand)."
        )
    return f"HyperReg on '{host}' did not answer{f': {complaint}' if complaint else ''}.".replace("..", ".")


def _parts(address: str) -> tuple[str, str]:
    match = _ADDRESS.fullmatch(address.strip())
    if match is None:
        raise InputError(
            f"'{address}' is not the address of a computer; expected user@host, or user@host:/folder/bin/hyperreg."
        )
    return match["host"], match["program"] or _PROGRAM
