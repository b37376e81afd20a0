"""Frozen encoders: prepared frames in, one feature row per frame or window out."""
