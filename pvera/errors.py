"""What is wrong with a request to the harness."""

from adapters.errors import AdapterError
from data.errors import DataError


class UserError(ValueError):
    """A mistake of the user's: the message names the thing, the rule, the value and the way out."""


#: What the project itself raises for a user's mistake. A command also meets Hydra's errors: pvera.command.MISTAKES.
MISTAKES = (UserError, AdapterError, DataError)
