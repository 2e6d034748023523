"""Floor 4: systems measured side by side, each in a process of its own, and the report that shows it."""
