"""How the programs of this folder wait for each other, and how they end when something is not as it should be."""

import contextlib
import fcntl
import sys

EX_USAGE, EX_DATA, EX_UNAVAILABLE, EX_CANTCREAT = 64, 65, 69, 73


class Failure(Exception):
    """One line for the user, and the exit code that goes with it."""

    def __init__(self, code, message):
        super().__init__(code, message)  # both, since it travels between processes
        self.code, self.message = code, message

    def __str__(self):
        return self.message


@contextlib.contextmanager
def locked(file, program):
    """One program at a time; the lock ends with the process."""
    with open(file, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another {program}", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def exit_code(body, place):
    """Runs a program; what it cannot do is one line on standard error. `place` is named where an error names no file."""
    try:
        body()
        return 0
    except Failure as failure:
        code, line = failure.code, str(failure)
    except OSError as error:
        code, line = EX_CANTCREAT, f"{error.filename or place}: {error.strerror or error}"
    except ImportError as error:
        code, line = EX_UNAVAILABLE, f"the Python package {error.name} is missing: run scripts/setup"
    except KeyboardInterrupt:
        code, line = 130, "interrupted; what is whole is kept, run again to go on"
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code
