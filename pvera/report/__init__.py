"""The page to look at: `python -m pvera.report DIR` writes DIR/report.html, one file that needs no network, and DIR/figures.

Pure from files, as the tables are: rows, what lies beside them, and nothing else. Imports no torch.

    charts.py       what a chart is made of
    panels.py       charts of rows;  beside.py, ablations.py, uncertain.py: of the files beside rows
    interactive.py  a chart for the page (plotly);  paper.py: the same as PNG and SVG (matplotlib)
    page.py         the page: page.html, page.css and page.js filled in (jinja2)
"""
