"""The strategies of clbench: one paper, one file, one decorator. Imported as `clbench.strategies`."""
