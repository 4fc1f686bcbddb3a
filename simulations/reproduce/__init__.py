"""The experiments that the paper does not have, from raw runs to a report a person reads."""
