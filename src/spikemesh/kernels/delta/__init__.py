"""Deltas: the choice of what is sent, its codes and positions as bytes, and the exact sum."""
