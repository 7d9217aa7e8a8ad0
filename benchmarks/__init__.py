"""The benchmarks of clbench: one data set family, one file. Imported as `clbench.benchmarks`."""
