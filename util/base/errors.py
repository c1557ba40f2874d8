"""The one error type for mistakes that a user can mend."""


class InputError(ValueError):
    """Something given from outside is wrong: a file, an option, a folder.

    The message is one line that names the file or key, the value, and what is allowed. Entry points print it without a
    traceback and exit with a non-zero status. Line breaks, as in a tensor's name in a damaged file, are written as \\n.
    """

    def __init__(self, message: str):
        super().__init__(str(message).replace("\n", "\\n").replace("\r", "\\r"))
