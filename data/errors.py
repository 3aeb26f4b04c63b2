"""What is wrong with the data, or with a request for them."""


class DataError(ValueError):
    """A mistake of the user's: the message names the thing, the rule, the value and the way out."""
