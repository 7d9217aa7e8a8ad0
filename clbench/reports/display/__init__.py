"""What people see of results and data in Python: tables, plots, data frames, and what a notebook shows.

The rooms below ask for these by address, so that neither torch nor matplotlib is loaded for them, and the id of a run
does not cover how it looks.
"""
