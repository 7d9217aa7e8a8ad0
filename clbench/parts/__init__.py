"""Parts that more than one strategy is made of."""

import types

from clbench.data.recurrence import lag_weights as lag_weights
from clbench.machine.caching import once as once
from clbench.machine.device import sent as sent
from clbench.machine.optim import quarter_cosine as quarter_cosine, scale_rate as scale_rate
from clbench.parts.adapters import (
    Adaptation as Adaptation,
    Adapter as Adapter,
    Cosine as Cosine,
    FeaturesOf as FeaturesOf,
    ScaleHead as ScaleHead,
    Slots as Slots,
    adapt_first as adapt_first,
    as_it_is as as_it_is,
    draw_down as draw_down,
    label_losses as label_losses,
)
from clbench.parts.blocks import (
    Blocks as Blocks,
    Readout as Readout,
    TextBlocks as TextBlocks,
    TimmBlocks as TimmBlocks,
    Tokens as Tokens,
    attend as attend,
    check_layers as check_layers,
    transformer_of as transformer_of,
)
from clbench.parts.boxes import box as box
from clbench.parts.detectors import DetectorName as DetectorName, Watch as Watch, detector_of as detector_of
from clbench.parts.documents import (
    AllDocuments as AllDocuments,
    GeneratorName as GeneratorName,
    LearnedQueries as LearnedQueries,
    PseudoQueries as PseudoQueries,
    RememberDocuments as RememberDocuments,
    Spans as Spans,
    pairs as pairs,
    pseudo_queries as pseudo_queries,
    questioner as questioner,
    spans as spans,
)
from clbench.parts.groups import (
    AsIs as AsIs,
    Group as Group,
    TrainOnly as TrainOnly,
    entries as entries,
    members_of as members_of,
)
from clbench.parts.heads import (
    GrowingHead as GrowingHead,
    Normalised as Normalised,
    NormalisedHead as NormalisedHead,
    SeenOutputs as SeenOutputs,
    linear_weight as linear_weight,
    nearness as nearness,
    replace_head as replace_head,
)
from clbench.parts.imbalance import (
    Counts as Counts,
    MixesLabels as MixesLabels,
    PlainRows as PlainRows,
    RowLoss as RowLoss,
    SplitsRows as SplitsRows,
)
from clbench.parts.injection import (
    Extended as Extended,
    Target as Target,
    block_of as block_of,
    extend as extend,
    insert as insert,
    reading as reading,
)
from clbench.parts.losses import (
    BinaryCrossEntropy as BinaryCrossEntropy,
    CrossEntropy as CrossEntropy,
    LocalCrossEntropy as LocalCrossEntropy,
    binary_loss as binary_loss,
)
from clbench.parts.lowrank import (
    Dropout as Dropout,
    LowRank as LowRank,
    LowRankTuning as LowRankTuning,
    Stage as Stage,
    unpadded as unpadded,
)
from clbench.parts.mixing import (
    AllAtOnce as AllAtOnce,
    Mixture as Mixture,
    aioli_graph as aioli_graph,
    aioli_weights as aioli_weights,
    at_once as at_once,
    law_losses as law_losses,
    log_linear_losses as log_linear_losses,
    normalised_graph as normalised_graph,
    probe_mixtures as probe_mixtures,
    skill_weights as skill_weights,
)
from clbench.parts.names import (
    ByName as ByName,
    NamesHead as NamesHead,
    dual_encoder as dual_encoder,
    said_of as said_of,
)
from clbench.parts.penalties import (
    Anchored as Anchored,
    by_example as by_example,
    examples_at_once as examples_at_once,
    fisher_of_labels as fisher_of_labels,
    head_rows as head_rows,
    per_example_gradients as per_example_gradients,
    quadratic_penalty as quadratic_penalty,
    summed_gradients as summed_gradients,
)
from clbench.parts.projections import (
    Keeper as Keeper,
    ProjectAveraged as ProjectAveraged,
    ProjectEach as ProjectEach,
    as_vector as as_vector,
    gradients_of as gradients_of,
    like as like,
    projected_averaged as projected_averaged,
    projected_each as projected_each,
    replayed_gradient as replayed_gradient,
    set_gradient as set_gradient,
    with_gradients as with_gradients,
)
from clbench.parts.prompts import (
    FeatureHead as FeatureHead,
    Prompted as Prompted,
    Prompter as Prompter,
    Prompting as Prompting,
    Prompts as Prompts,
    SlicedPrompter as SlicedPrompter,
    SlicedPrompting as SlicedPrompting,
    as_prefixes as as_prefixes,
    cosines as cosines,
    halves as halves,
)
from clbench.parts.proxies import (
    CosineHead as CosineHead,
    Proxies as Proxies,
    SecondView as SecondView,
    TwoViews as TwoViews,
    proxy_contrast as proxy_contrast,
    replay_two_views as replay_two_views,
    second_view as second_view,
    supervised_contrast as supervised_contrast,
    unit as unit,
)
from clbench.parts.replay import (
    DarkReplay as DarkReplay,
    Episodes as Episodes,
    Rehearsal as Rehearsal,
    Replay as Replay,
    exact as exact,
    expect_examples as expect_examples,
    give_way as give_way,
    nearest as nearest,
)
from clbench.parts.sessions import (
    LearnFirst as LearnFirst,
    SettleAfterFirst as SettleAfterFirst,
    Settling as Settling,
    feature_sums as feature_sums,
)
from clbench.parts.sharpness import ascent as ascent, perturbed as perturbed
from clbench.parts.statistics import (
    ClassMoments as ClassMoments,
    ClassSums as ClassSums,
    Expanded as Expanded,
    Gram as Gram,
    OnePass as OnePass,
    RandomFeatures as RandomFeatures,
    add_rows as add_rows,
    features_of as features_of,
    refuse_steps as refuse_steps,
)
from clbench.parts.teachers import (
    Distil as Distil,
    Teacher as Teacher,
    mean_of_labels as mean_of_labels,
    teacher_of as teacher_of,
)
from clbench.parts.writing import check_writes as check_writes, drawn as drawn, written as written

__all__ = sorted(
    name for name, value in globals().items() if name[0] != "_" and not isinstance(value, types.ModuleType)
)
