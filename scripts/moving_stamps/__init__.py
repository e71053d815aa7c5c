"""Clips of cut-outs with known motion, order, number and sound: see ../make_moving_stamps.py."""
