"""The LaTeX of the tables is compiled by a TeX, where one is installed."""

import shutil
import subprocess

import pytest

from pvera import table
from tests.helpers.rows import demo_rows, full_rows, keep, run

DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


@pytest.fixture
def compile_tex(tmp_path):
    if not shutil.which("pdflatex"):
        pytest.skip("no TeX: pdflatex is not on the path (Debian: texlive-latex-base)")

    def compiled(text: str) -> None:
        (tmp_path / "page.tex").write_text(DOCUMENT % text)
        done = subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / "page.pdf").read_bytes()[:5] == b"%PDF-"

    return compiled


def test_signs_that_latex_would_print_as_others_are_named(tmp_path):
    keep(tmp_path, [run("lora", backbone_description="a<b>|c")])
    assert table.main([str(tmp_path)]) == 0
    assert r"\caption{a\textless{}b\textgreater{}\textbar{}c (tiny)" in (tmp_path / "table.tex").read_text()


def test_tables_of_ours_and_of_others_compile(tmp_path, compile_tex):
    keep(tmp_path / "rows", [*full_rows(("vera", "a_b&c%{~^\\$#", "pvera")), *demo_rows()])
    assert table.main([str(tmp_path / "rows"), "--allow-limited", "--with-reported"]) == 0
    assert table.main([str(tmp_path / "rows"), "--allow-limited", "--metric", "test_ace"]) == 0
    compile_tex("".join((tmp_path / "rows" / name).read_text() for name in ("table.tex", "table-test_ace.tex")))
