"""A deployment on Flower's own runtime, with TLS and keys, on one machine or on devices."""
