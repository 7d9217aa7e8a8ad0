"""Parts that more than one strategy is made of."""

from clbench.parts.groups import AsIs, Group, TrainOnly, members_of
from clbench.parts.heads import GrowingHead, SeenOutputs
from clbench.parts.losses import BinaryCrossEntropy, CrossEntropy, LocalCrossEntropy, binary_loss
from clbench.parts.normalisation import (
    Norm,
    NormKind,
    group_norms,
    insert_norms,
    owners,
    present,
    project,
    scale_invariant,
)
from clbench.parts.penalties import (
    Anchored,
    HoldWeights,
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
from clbench.parts.sharpness import ascent, perturbed
from clbench.parts.stages import stages
from clbench.parts.teachers import Distil, KeepFeatures, Teacher, teacher_of
from clbench.rehearsal import lag_weights

__all__ = [
    "Anchored",
    "AsIs",
    "BinaryCrossEntropy",
    "CosineHead",
    "CrossEntropy",
    "DarkReplay",
    "Distil",
    "Episodes",
    "Group",
    "GrowingHead",
    "HoldWeights",
    "KeepFeatures",
    "Keeper",
    "LocalCrossEntropy",
    "Norm",
    "NormKind",
    "ProjectAveraged",
    "ProjectEach",
    "Proxies",
    "Replay",
    "SecondView",
    "SeenOutputs",
    "Teacher",
    "TrainOnly",
    "TwoViews",
    "as_vector",
    "ascent",
    "binary_loss",
    "examples_at_once",
    "gradients_of",
    "group_norms",
    "insert_norms",
    "lag_weights",
    "like",
    "members_of",
    "owners",
    "per_example_gradients",
    "perturbed",
    "present",
    "project",
    "projected_averaged",
    "projected_each",
    "proxy_contrast",
    "quadratic_penalty",
    "replay_two_views",
    "replayed_gradient",
    "scale_invariant",
    "second_view",
    "set_gradient",
    "squared_gradients",
    "stages",
    "teacher_of",
    "unit",
    "with_gradients",
]
