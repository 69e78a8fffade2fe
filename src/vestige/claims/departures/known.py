"""The known departures of the paper's released code from the corrected protocol, claim by claim, one at a time.

References:
  Ranadive, Thakurdesai, Morcos, Leavitt, Deny (2023). On the special role of class-selective neurons in early
  training. TMLR (its released code).
"""

from vestige.claims.departures import causality, emergence, importance, linearity
from vestige.claims.departures.terms import Departure

WHOLE = "whole"
"""Of the departure that makes all of a claim's others at once."""
_C1 = ("C1.rise", "C1.fall", "C1.rapid", "C1.remains")
_TIMED = _C1[:3]
_C2 = ("C2.early.zero", "C2.early.mean", "C2.change.zero", "C2.change.mean")
_ZERO = ("C2.early.zero", "C2.change.zero")
_C3 = ("C3.a",)
_HELD_OUT = "neurons are ranked on one half of the images and ablated on the other"

KNOWN = (
    Departure(
        id="class-sums",
        claim="C1",
        title="class sums",
        released="divides the activations summed over a class's images by nothing",
        corrected="class means",
        touches=_C1,
        make=emergence.class_sums,
    ),
    Departure(
        id="stored-batch-norm",
        claim="C1",
        title="stored batch norm",
        released="measures with the running batch-norm statistics that training left",
        corrected="statistics recomputed with the weights of the checkpoint",
        touches=_C1,
        make=emergence.stored_statistics,
    ),
    Departure(
        id="raw-csi",
        claim="C1",
        title="raw csi",
        released="reads csi as it is, with the upward bias of a maximum of noisy means",
        corrected="csi_cv: one half of the images names the class, the other half says how far it leads",
        touches=_C1,
        make=emergence.raw_csi,
    ),
    Departure(
        id="dead-neurons",
        claim="C1",
        title="dead neurons counted",
        released="averages over all neurons, those that never fire with an index of 0",
        corrected="averages over the living neurons of a layer",
        touches=_C1,
        make=emergence.dead_neurons,
    ),
    Departure(
        id="own-peak",
        claim="C1",
        title="own peak",
        released="takes the peak of the curve that it judges",
        corrected="t* of a seed is the peak of the other seeds",
        touches=_TIMED,
        make=emergence.own_peak,
    ),
    Departure(
        id="epochs-only",
        claim="C1",
        title="epochs only",
        released="has checkpoints at the end of epochs, the first after epoch 1",
        corrected="step 0, and checkpoints within the first epochs",
        touches=_C1,
        make=emergence.epochs_only,
    ),
    Departure(
        id="pooled-neurons",
        claim="C1",
        title="neurons pooled",
        released="pools the neurons of all seeds: n = neurons x seeds",
        corrected="the unit of replication is the seed",
        touches=_C1,
        make=emergence.pooled_neurons,
    ),
    Departure(
        id=WHOLE,
        claim="C1",
        title="all of these",
        released="all of the above at once, but for the checkpoints",
        corrected="the corrected protocol",
        touches=_C1,
        make=emergence.whole_emergence,
    ),
    Departure(
        id="class-sums",
        claim="C2",
        title="ranked by class sums",
        released="ranks neurons by an index of class sums",
        corrected="by an index of class means",
        touches=_C2,
        make=importance.of_protocol("class-sums"),
    ),
    Departure(
        id="stored-batch-norm",
        claim="C2",
        title="stored batch norm",
        released="ranks and ablates with the running batch-norm statistics that training left",
        corrected="statistics recomputed with the weights of the checkpoint",
        touches=_C2,
        make=importance.of_protocol("stored-batch-norm"),
    ),
    Departure(
        id="same-images",
        claim="C2",
        title="same images",
        released="ranks neurons on the images that they are ablated on",
        corrected=_HELD_OUT,
        touches=_C2,
        make=importance.of_protocol("same-images"),
    ),
    Departure(
        id="random-control",
        claim="C2",
        title="random control",
        released="compares with random neurons",
        corrected="with neurons of like mean activation",
        touches=_C2,
        make=importance.random_control,
    ),
    Departure(
        id="redrawn-control",
        claim="C2",
        title="control redrawn",
        released="draws the random neurons anew for every layer and batch, unseeded",
        corrected="fixed seeded orders (random ones: what is redrawn is a random control)",
        touches=_C2,
        make=importance.redrawn_control,
    ),
    Departure(
        id="uneven-grid",
        claim="C2",
        title="uneven grid",
        released="sums acc / max(curve) over 15, 30, ... neurons to half the width, then in steps of 40",
        corrected="(acc - 1/C)/(acc0 - 1/C), by trapezoid over equal fractions from 0 to 1",
        touches=_C2,
        make=importance.uneven_grid,
    ),
    Departure(
        id="zero-alone",
        claim="C2",
        title="zero alone",
        released="ablates to zero alone",
        corrected="the claim must hold for zero and for the mean",
        touches=_ZERO,
        make=importance.zero_alone,
    ),
    Departure(
        id=WHOLE,
        claim="C2",
        title="all of these",
        released="all of the above at once, checkpoints near chance counted, but for step 0",
        corrected="the corrected protocol",
        touches=_ZERO,
        make=importance.whole_importance,
    ),
    Departure(
        id="correlation",
        claim="C3",
        title="correlation as evidence",
        released="takes the correlation of the most active channels between layers for linearity; it never uses CSI",
        corrected="midpoint nonlinearity of the logits, and the share that a linear model explains",
        touches=_C3,
        make=linearity.correlation,
    ),
    Departure(
        id="active-channels",
        claim="C3",
        title="most active channels",
        released="correlates the channels that are most active in each image, selective or not",
        corrected="the channels of highest CSI, fixed",
        touches=_C3,
        make=linearity.active_channels,
    ),
    Departure(
        id="no-anchor",
        claim="C3",
        title="no anchor",
        released="reads the correlation as it is",
        corrected="beside that of the same network without its ReLUs, which is not 1 either",
        touches=_C3,
        make=linearity.no_anchor,
    ),
    Departure(
        id=WHOLE,
        claim="C3",
        title="all of these",
        released="all of the above at once, checkpoints near chance counted, but for step 0",
        corrected="the corrected protocol",
        touches=_C3,
        make=linearity.whole_linearity,
    ),
    Departure(
        id="sum-penalty",
        claim="C4",
        title="penalty on class sums",
        released="penalises an index of class sums of the current batch",
        corrected="an index of class means",
        touches=("C4.a", "C4.b", "C4.c"),
        make=causality.sum_penalty,
    ),
    Departure(
        id="open-windows",
        claim="C4",
        title="windows without an end",
        released="regularises from the start, or from a later epoch, to the end of training",
        corrected="early and late windows of equal length, and none in the last fifth",
        touches=("C4.a", "C4.b"),
        make=causality.open_windows,
    ),
    Departure(
        id="no-placebo",
        claim="C4",
        title="no placebo",
        released="has no penalty with permuted labels to compare with",
        corrected="the harm must exceed that of permuted eta2",
        touches=("C4.a", "C4.b", "C4.c"),
        make=causality.no_placebo,
    ),
)
"""In the order of the table."""

TOKENS = Departure(
    id="token-axis",
    claim="C1",
    title="token axis",
    released="averages a ViT's activations over features, and so measures token positions",
    corrected="the neurons of the MLP's hidden activation",
    touches=_C1,
    make=emergence.token_axis,
)
"""Of vision transformers alone."""
