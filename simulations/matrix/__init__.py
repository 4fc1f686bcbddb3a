"""Which rule for which attack: every rule under every attack, on data more and less alike."""
