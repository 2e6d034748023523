"""Floor 4: systems measured side by side, each in a process of its own, and the report that shows it.

What is measured against is the PyTorch model, which training begins with: it is loaded in one place, `pytorch`.
"""
