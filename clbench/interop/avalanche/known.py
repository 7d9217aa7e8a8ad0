"""What of Avalanche 0.6 runs in clbench, and what does not and why. Imports neither torch nor Avalanche."""

from __future__ import annotations

from dataclasses import dataclass

from clbench.errors import RegistryError, choices

PREFIX = "avalanche:"


@dataclass(frozen=True)
class Known:
    """A strategy or plugin of Avalanche that runs.

    Attributes:
        summary: what it does, in a sentence.
        needs: what the setting must offer, of `clbench.types.NEEDS`.
        fixed: parameters of its constructor that clbench gives, since they follow from model and benchmark.
        resumes: why a run cannot be continued from a checkpoint; empty where it can, at experience ends.
    """

    summary: str
    needs: frozenset[str] = frozenset()
    fixed: tuple[str, ...] = ()
    resumes: str = ""


def _known(summary: str, *needs: str, fixed: tuple[str, ...] = (), resumes: str = "") -> Known:
    return Known(summary, frozenset({"boundaries", *needs}), fixed, resumes)


STRATEGIES: dict[str, Known] = {
    "AGEM": _known(
        "Projects the gradient so that the average loss on remembered examples does not rise.",
        "memory",
        resumes="its memory is read by a loader that stands open between experiences",
    ),
    "CWRStar": _known(
        "Copies the last layer's weights of the present classes, rescaled, into a consolidated head; freezes the rest.",
        fixed=("cwr_layer_name",),
        resumes="its network keeps consolidated weights outside its weights",
    ),
    "CoPE": _known(
        "Pulls embeddings towards slowly moving class prototypes; one update per experience, so meant for "
        "streams of many small ones.",
        "memory",
        fixed=("n_classes",),
        resumes="it changes its network as training begins",
    ),
    "Cumulative": _known("Trains on the data of all experiences so far.", "past data"),
    "DER": _known("Replays examples together with the logits they once had.", "memory"),
    "ER_ACE": _known("Replay in which new examples compete only with the classes of their batch.", "memory"),
    "ER_AML": _known(
        "Replay in which new examples are learned by a contrastive loss on features.",
        "memory",
        fixed=("feature_extractor",),
        resumes="its memory is read by loaders that stand open between experiences",
    ),
    "EWC": _known("A quadratic penalty on moving weights that the Fisher information holds to be important."),
    "FeatureReplay": _known(
        "Replays features of the last layer, masking the classes of other experiences.",
        "memory",
        fixed=("last_layer_name",),
        resumes="its memory is read by a loader that stands open between experiences",
    ),
    "FromScratchTraining": _known("Resets the weights before every experience."),
    "GDumb": _known("Trains from scratch, at every experience, on a class-balanced memory alone.", "memory"),
    "GEM": _known("Projects the gradient so that the loss on no past experience's examples rises.", "memory"),
    "GSS_greedy": _known(
        "Replay of examples chosen for gradients unlike one another.", "memory", fixed=("input_size",)
    ),
    "GenerativeReplay": _known(
        "Replays images drawn from a variational autoencoder that learns the stream, too.",
        fixed=("generator_strategy",),
        resumes="its generator is a second model with an optimizer of its own",
    ),
    "ICaRL": _known(
        "Herded exemplars, distillation, and classification by the nearest mean of exemplars.",
        "memory",
        fixed=("feature_extractor", "classifier", "buffer_transform"),
        resumes="its network keeps class means outside its weights",
    ),
    "JointTraining": _known("Trains once, on the shuffled data of the whole stream.", "past data"),
    "LFL": _known("Keeps the features of the previous model close while the last layer is learned."),
    "LwF": _known("Distils the previous model's predictions on the new data."),
    "MAS": _known("A quadratic penalty on weights to which the output is sensitive."),
    "MER": _known("Meta-learning by Reptile over replayed examples, one at a time.", "memory"),
    "MIR": _known(
        "Replays the examples whose loss the coming update would raise most.",
        "memory",
        resumes="its memory is read by a loader that stands open between experiences",
    ),
    "Naive": _known("Fine-tuning; with plugins, what they make of it."),
    "OnlineNaive": _known(
        "Fine-tuning, by its former name for streams of one pass.",
        fixed=("train_passes",),
    ),
    "PNNStrategy": _known(
        "A new column of the network for every task; brings its own network of one hidden layer.",
        "task labels",
        resumes="its network grows from one experience to the next",
    ),
    "PackNet": _known(
        "Prunes the network after every task and freezes what the task keeps.",
        "task labels",
        resumes="its network keeps masks outside its weights",
    ),
    "Replay": _known("Stored examples, balanced over experiences, join every batch.", "memory"),
    "SCR": _known(
        "Supervised contrastive learning on replayed batches, and classification by the nearest class mean.",
        "memory",
        fixed=("augmentations",),
        resumes="its network keeps class means outside its weights",
    ),
    "StreamingLDA": _known(
        "Linear discriminant analysis on the features of the network, which is not trained.",
        fixed=("slda_model", "input_size", "num_classes", "output_layer_name"),
    ),
    "SynapticIntelligence": _known("A quadratic penalty on weights that have done much to lower the loss."),
}
"""Strategies of `avalanche.training.supervised` that run, each with the same losses as in Avalanche's own loop."""

PLUGINS: dict[str, Known] = {
    "AGEMPlugin": STRATEGIES["AGEM"],
    "EWCPlugin": STRATEGIES["EWC"],
    "FeatureDistillationPlugin": _known("Keeps the features of the previous model close."),
    "FromScratchTrainingPlugin": STRATEGIES["FromScratchTraining"],
    "GDumbPlugin": STRATEGIES["GDumb"],
    "GEMPlugin": STRATEGIES["GEM"],
    "LFLPlugin": STRATEGIES["LFL"],
    "LwFPlugin": STRATEGIES["LwF"],
    "MASPlugin": STRATEGIES["MAS"],
    "MIRPlugin": STRATEGIES["MIR"],
    "RWalkPlugin": _known(
        "A penalty on weights important by Fisher information and by the path of training."
    ),
    "ReplayPlugin": _known(STRATEGIES["Replay"].summary, "memory", fixed=("storage_policy",)),
    "SynapticIntelligencePlugin": _known(
        STRATEGIES["SynapticIntelligence"].summary, fixed=("excluded_parameters", "device")
    ),
}
"""Plugins of `avalanche.training.plugins` that run, each in the `Naive` strategy."""

REFUSED: dict[str, str] = {
    "AETraining": "trains an autoencoder, which classifies nothing",
    "AR1": "brings its own network, MobileNet, and cannot be built without downloading its weights",
    "BiC": "fails on current torch: it passes `verbose` to MultiStepLR, which no longer takes it",
    "ExpertGateStrategy": "brings its own networks, AlexNets for images of 227 × 227 pixels, and cannot be built "
    "without downloading their weights",
    "LearningToPrompt": "brings its own vision transformer, which cannot be built with timm 1: it reads timm's "
    "settings as a dictionary, and they are none any more",
    "VAETraining": "trains an autoencoder, which classifies nothing",
    "BiCPlugin": "fails on current torch: it passes `verbose` to MultiStepLR, which no longer takes it",
    "CWRStarPlugin": "is built with the model; use avalanche:CWRStar",
    "CoPEPlugin": "needs another last layer; use avalanche:CoPE",
    "GSS_greedyPlugin": "needs the shape of the inputs; use avalanche:GSS_greedy",
    "GenerativeReplayPlugin": "needs a generator; use avalanche:GenerativeReplay",
    "EarlyStoppingPlugin": "asks Avalanche's evaluator, in whose place clbench's measures",
    "LRSchedulerPlugin": "is built with a scheduler; register a strategy of your own with `AvalancheStrategy`",
    "RARPlugin": "needs the name of a layer; register a strategy of your own with `AvalancheStrategy`",
}
"""Names of Avalanche's that do not run, and why; the tests see each fail for its reason."""


RULES_NOT_KEPT: dict[str, str] = {
    "private_randomness": "Avalanche draws from the global generators, which are lent to it and given back",
    "resumes": "a checkpoint is written at experience ends only",
    "low_precision": "Avalanche's loop knows no precision",
}
"""Checks of the contract that no strategy of Avalanche's can pass, and why."""


def all_known() -> dict[str, Known]:
    """Strategies, then plugins, that run."""
    return {**STRATEGIES, **PLUGINS}


def look_up(name: str) -> Known:
    """Return what is known of `Replay` or `ReplayPlugin`.

    Raises:
        RegistryError: no such strategy, or one that does not run; the message says why.
    """
    if name in REFUSED:
        raise RegistryError(f"'{PREFIX}{name}' does not run in clbench: it {REFUSED[name]}.")
    known = all_known()
    if name not in known:
        instead = choices(PREFIX + name, [PREFIX + other for other in known], "clbench list avalanche")
        raise RegistryError(f"There is no strategy named '{PREFIX}{name}'.{instead}")
    return known[name]
