"""Spiking networks: training over all tokens of a window, and one token at a time, event by event."""
