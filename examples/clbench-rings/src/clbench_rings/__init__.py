"""Plugins for clbench: the strategy `l2-init`, the benchmark `rings`, the model `fourier`."""
