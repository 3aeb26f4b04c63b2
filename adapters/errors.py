"""The error of this package."""


class AdapterError(ValueError):
    """A mistake in what the user asked of an adapter. The message names the setting, the rule, the value and a way out."""
