"""Structured logs: a line of JSON for each request, with its id, and never its texts."""

import json
import logging
from datetime import UTC, datetime

LOGGER = logging.getLogger("bertline")


class JsonLines(logging.Formatter):
    """Time, level, message, what `extra={"fields": …}` adds, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def set_up() -> None:
    """Send bertline's, asyncio's, uvicorn's and OpenTelemetry's own words to stderr as lines of JSON."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    levels = dict.fromkeys(("asyncio", "uvicorn.error", "opentelemetry"), logging.WARNING)
    for name, level in ({"bertline": logging.INFO} | levels).items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
