"""What drives an epoch and keeps a run: steps, precision, the device's copy of the pictures, the run's folder."""
