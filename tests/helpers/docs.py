"""The Python examples of the documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def examples(page: str, section: str) -> list[str]:
    """The Python blocks of one section (`## section`) of a page, given from the root of the project."""
    [text] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
