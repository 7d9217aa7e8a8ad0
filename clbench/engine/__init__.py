"""One run of one strategy on one benchmark."""
