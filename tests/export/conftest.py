from tests.fixtures import copy, data, made

__all__ = ["copy", "data", "made"]
