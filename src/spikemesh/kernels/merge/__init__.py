"""Checkpoints: the exact combination of raw elements, and a look at them."""
