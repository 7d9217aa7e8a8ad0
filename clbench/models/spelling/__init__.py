"""Networks that spell their labels piece by piece."""
