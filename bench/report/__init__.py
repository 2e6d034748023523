"""What was measured, for people: a table for the terminal, and pages that stand alone.

The pages are one HTML file each: plots as inline SVG, no script, no reference to anything outside. The same result
gives the same page. What stands in a plot stands in a table behind it as well. Nothing is measured here.
"""
