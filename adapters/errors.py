"""What is wrong with a request to an adapter."""


class AdapterError(ValueError):
    """A mistake of the user's: the message names the thing, the rule, the value and the way out."""
