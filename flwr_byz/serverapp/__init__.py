"""For Flower's Message API, as ``flwr.serverapp``."""
