"""bertline: a production line for encoder models, from labelled text to a small, proven CPU model."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads it once, as it is imported: by default it reports each model that is opened to its makers, and
# keeps an id of the machine in the home folder (its Privacy.md)
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
