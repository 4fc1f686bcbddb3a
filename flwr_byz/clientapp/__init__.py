"""Mods for the ClientApps of others."""
