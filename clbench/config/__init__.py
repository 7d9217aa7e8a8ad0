"""The configuration of a run: its schema, the layers that it is made of, and settings by key. Imports no torch."""

from clbench.config.keys import FULL_ONLY as FULL_ONLY, SECTIONS as SECTIONS
from clbench.config.layers import (
    config_file as config_file,
    plain as plain,
    resolve as resolve,
    shipped as shipped,
    suite_names as suite_names,
)
from clbench.config.schema import (
    EvaluationConfig as EvaluationConfig,
    Execution as Execution,
    ModelConfig as ModelConfig,
    OptimConfig as OptimConfig,
    RunConfig as RunConfig,
    Seeds as Seeds,
    TrainConfig as TrainConfig,
    cores as cores,
    place as place,
    validate as validate,
)
from clbench.config.yamls import parse_pairs as parse_pairs, read_yaml as read_yaml
