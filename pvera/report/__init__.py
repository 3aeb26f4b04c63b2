"""`python -m pvera.report DIR` writes DIR/report.html, a page in one file that needs no network, and DIR/figures.

The page is a pure function of the rows and of the files next to them. Imports no torch.

    group.py         rows that can be compared, as one section: trade_offs.py, differences.py, ablations.py, reliability.py and
                     training_curves.py make its charts
    evaluations.py   the reports of evaluators
    page.py          the page: page.html, page.css and page.js, filled in by jinja2
"""
