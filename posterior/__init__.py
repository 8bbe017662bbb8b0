"""From a trained network's logits to probabilities one can act on: scaled, judged, and under another class prior."""
