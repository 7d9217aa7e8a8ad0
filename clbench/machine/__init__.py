"""What lies between clbench and torch: device, precision, randomness, processes, checkpoints, energy."""
