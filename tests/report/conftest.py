from tests.helpers.page import made

__all__ = ["made"]
