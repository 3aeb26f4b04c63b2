"""The methods, one file each: the file NAME.py defines the Adapter whose name is NAME, and `adapter=NAME` selects it."""
