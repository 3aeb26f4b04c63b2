"""The one exception that means "what was asked for cannot be done": the command line prints it as one line, without a traceback."""


class UserError(ValueError):
    """A mistake in what was asked for or in the files it names.

    The message is one line that names the thing, the rule it breaks, the value found and the way out.
    """
