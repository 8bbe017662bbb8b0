"""Measurements, each a command: `python -m bench.step`. Speed is measured here and asserted nowhere."""
