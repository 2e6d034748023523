"""bertline: a production line for encoder models, from labelled text to a small, proven CPU model."""

__version__ = "0.1.0"
