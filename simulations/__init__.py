"""The engine of all studies, their declarations and their reports, and the ServerApp."""
