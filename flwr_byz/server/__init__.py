"""For Flower's classic API (``NumPyClient`` apps), as ``flwr.server``."""
