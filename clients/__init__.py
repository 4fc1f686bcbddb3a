"""Clients of two problems, honest and Byzantine, for both of Flower's APIs."""
