"""Runs from configuration to record, alone, in suites and in searches."""
