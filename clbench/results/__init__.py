"""What a run leaves behind: curve, record, and the metrics and statistics made of them. Imports no torch."""
