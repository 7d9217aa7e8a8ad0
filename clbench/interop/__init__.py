"""Other libraries' strategies and benchmarks inside clbench, and clbench's benchmarks in theirs.

Nothing here is imported before it is asked for, and no other library before something of it is run.
"""
