"""How this program ends when something is not as it should be."""

EX_USAGE, EX_DATA, EX_UNAVAILABLE, EX_CANTCREAT = 64, 65, 69, 73


class Failure(Exception):
    """One line for the user, and the exit code that goes with it."""

    def __init__(self, code, message):
        super().__init__(code, message)  # both, since it travels between processes
        self.code, self.message = code, message

    def __str__(self):
        return self.message
