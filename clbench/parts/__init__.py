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
from clbench.parts.proxies import CosineHead, Proxies, TwoViews, proxy_contrast, replay_two_views, unit
from clbench.parts.replay import DarkReplay, Episodes, Replay
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
    "SeenOutputs",
    "Teacher",
    "TrainOnly",
    "TwoViews",
    "as_vector",
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
    "present",
    "project",
    "projected_averaged",
    "projected_each",
    "proxy_contrast",
    "quadratic_penalty",
    "replay_two_views",
    "replayed_gradient",
    "scale_invariant",
    "set_gradient",
    "stages",
    "teacher_of",
    "unit",
    "with_gradients",
]
