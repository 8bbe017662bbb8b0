"""From files to pixels: what a folder or a CSV lists, decoded once into a Store; and the built-in set. Knows no
network."""
