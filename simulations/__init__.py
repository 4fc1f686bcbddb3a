"""The experiments run in Flower: what the server runs, a demo of all of it, and its report."""
