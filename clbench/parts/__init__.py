"""Parts that more than one strategy is made of."""

from clbench.parts.losses import CrossEntropy
from clbench.parts.penalties import (
    examples_at_once,
    per_example_gradients,
    quadratic_penalty,
    squared_gradients,
)
from clbench.parts.projections import (
    Keeper,
    ProjectAveraged,
    ProjectEach,
    as_vector,
    gradients_of,
    like,
    projected_averaged,
    projected_each,
    replayed_gradient,
    set_gradient,
    with_gradients,
)
from clbench.parts.proxies import (
    CosineHead,
    Proxies,
    SecondView,
    TwoViews,
    proxy_contrast,
    replay_two_views,
    second_view,
    unit,
)
from clbench.parts.replay import DarkReplay, Episodes, Replay
from clbench.rehearsal import lag_weights

__all__ = [
    "CosineHead",
    "CrossEntropy",
    "DarkReplay",
    "Episodes",
    "Keeper",
    "ProjectAveraged",
    "ProjectEach",
    "Proxies",
    "Replay",
    "SecondView",
    "TwoViews",
    "as_vector",
    "examples_at_once",
    "gradients_of",
    "lag_weights",
    "like",
    "per_example_gradients",
    "projected_averaged",
    "projected_each",
    "proxy_contrast",
    "quadratic_penalty",
    "replay_two_views",
    "replayed_gradient",
    "second_view",
    "set_gradient",
    "squared_gradients",
    "unit",
    "with_gradients",
]
