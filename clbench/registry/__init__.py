"""Names, where they come from, and what can be known of them without running their code. Imports no torch."""

from clbench.registry.arguments import check_arguments as check_arguments, type_name as type_name
from clbench.registry.entries import (
    Registry as Registry,
    benchmarks as benchmarks,
    chain_parts as chain_parts,
    load_plugin as load_plugin,
    models as models,
    register as register,
    register_benchmark as register_benchmark,
    register_benchmarks as register_benchmarks,
    register_model as register_model,
    strategies as strategies,
)
from clbench.registry.entry import Entry as Entry, PluginWarning as PluginWarning
from clbench.registry.reads import File as File
