"""Anser: you leave bars empty, it answers."""
