"""Shows measurements: as tables in the terminal, and as self-contained HTML pages.

A page is one HTML file: plots are inline SVG, with no script and no external reference. The same result gives the same
page. The figures of every plot are also in a table below it. Nothing is measured here.
"""
