"""epcli: ask questions about your own videos, offline."""

__version__ = "0.1.0"
