"""Bundles over HTTP: Hugging Face's inference format, Open Inference Protocol v2, a page. Needs the extra [serve]."""
