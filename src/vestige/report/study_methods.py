"""The methods of a study, ready for a paper: from its settings and tables, with nothing that was not done."""

from collections.abc import Iterator

from vestige.acting import PenaltyConfig
from vestige.config import StudyConfig
from vestige.report.figures.source import Source
from vestige.report.making import dataset, intervention
from vestige.report.methods import CSI, CV, SELECTIVE
from vestige.report.style import count, names

Paragraphs = tuple[tuple[str, str], ...]
MOST_CONDITIONS = 12


def study_methods(source: Source) -> Paragraphs:
    """Paragraphs with their headings; a measurement that has no table yet is not described."""
    parts = (
        ("Training", _training(source)),
        ("Interventions", _interventions(source.study)),
        ("Selectivity", _selectivity(source)),
        ("Ablation", _ablation(source)),
        ("Linearity", _linearity(source)),
        ("Statistics", _statistics(source)),
        ("Software", _software(source)),
    )
    found = ((heading, " ".join(sentences)) for heading, sentences in parts)
    return tuple((heading, text) for heading, text in found if text)


def _training(source: Source) -> Iterator[str]:
    study = source.study
    recipe, resnet = study.recipe, "resnet" in study.model.name.lower()
    told = [f"width {study.model.width}"] * study.model.name.startswith("resnet") + ["He et al. 2016"] * resnet
    network = study.model.name + (f" ({'; '.join(told)})" if told else "")
    images = dataset(study.data.train) + (" (Alpaydin and Kaynak 1998)" if study.data.train == "digits" else "")
    yield (
        f"{network} was trained on {images} for "
        f"{count(recipe.epochs, 'epoch')} by stochastic gradient descent with "
        f"{'Nesterov ' if recipe.nesterov else ''}momentum {recipe.momentum:g}, batches of {recipe.batch_size}, weight "
        f"decay {recipe.weight_decay:g} and a learning rate of {recipe.lr:g} ({_schedule(study)}), in {recipe.dtype}, "
        f"with {count(len(study.seeds), 'seed')}."
    )
    steps = source.table("history").filter(split="test", condition=source.baseline)["step"].n_unique()
    if steps:
        yield f"Weights were kept at {count(steps, 'checkpoint')} of the baseline, most of them early in training."
    kinds = ("selectivity", "ablation", "cumulative", "linearity")
    if any("corrected" in source.table(kind)["protocol"] for kind in kinds):
        yield (
            "Before every measurement, batch-norm statistics were recomputed from "
            f"{count(study.measurements.batch_norm.images, 'training image')}, fixed and unaugmented."
        )


def _schedule(study: StudyConfig) -> str:
    recipe = study.recipe
    inside = [str(epoch) for epoch in recipe.step_epochs if epoch < recipe.epochs]
    said = {
        "step": f"divided by 10 at epoch {names(inside)}" if inside else "constant",
        "cosine": "falling to 0 as a cosine",
        "constant": "constant",
    }[recipe.schedule]
    return said + (f", after a warm-up of {recipe.warmup_epochs:g} epochs" if recipe.warmup_epochs else "")


def _interventions(study: StudyConfig) -> Iterator[str]:
    acting = {name: one for name, one in study.conditions.items() if one.interventions}
    if not acting:
        return
    if len(acting) > MOST_CONDITIONS:
        yield f"{count(len(acting), 'condition')} were compared with a baseline without intervention."
    else:
        told = "; ".join(
            f"“{name}” {' and '.join(intervention(i) for i in one.interventions)}" for name, one in acting.items()
        )
        yield f"{count(len(acting), 'condition')} with an intervention were compared with the baseline: {told}."
    penalties = [i for one in acting.values() for i in one.interventions if isinstance(i, PenaltyConfig)]
    if penalties:
        yield (
            "A penalty adds −α times the mean over stages of the mean over their neurons of the index to the loss "
            "(Leavitt and Morcos 2020)."
        )
    if any(getattr(i, "estimator", "") == "sum" for i in penalties):
        yield "The estimator “sum” takes class sums for means, as the released code of Ranadive et al. (2023) does."
    if any(i.window.start for one in acting.values() for i in one.interventions):
        yield "A condition that begins late starts from the state of its baseline at its onset."


def _selectivity(source: Source) -> Iterator[str]:
    table, settings = source.table("selectivity"), source.study.measurements.selectivity
    if table.is_empty() or settings is None:
        return
    absolute = ", of which the absolute value was taken where it can be negative" * ("abs" in table["rectify"])
    yield f"A neuron is one channel of a layer’s output, averaged over positions{absolute}."
    yield f"It was measured on {count(int(table['n'][0]), 'image')} of the {table['split'][0]} set."
    yield CSI
    yield CV
    if table["csi_null_mean"].count():
        yield (
            f"{SELECTIVE} and its cross-validated CSI the 95% quantile of its layer at step 0; the null distribution "
            f"is of {count(settings.permutations, 'permutation')} of the labels, shared by all neurons."
        )
    if table["auroc"].count():
        yield (
            "The area under the ROC curve and the informedness of the preferred class (Gale et al. 2020) were "
            "evaluated on the half of the images that had no part in choosing class and threshold."
        )
    if "faithful" in table["protocol"]:
        yield (
            "Beside it, under the faithful protocol, CSI was taken of class sums with the batch-norm statistics that "
            "were stored, as the released code of Ranadive et al. (2023) does."
        )


def _ablation(source: Source) -> Iterator[str]:
    single, cumulative = source.table("ablation"), source.table("cumulative")
    if not single.is_empty():
        values = names(sorted(single["value"].unique()))
        yield (
            "Every single neuron was ablated alone (Morcos et al. 2018; Zhou et al. 2018), its activation replaced by: "
            f"{values}; the change of the mean loss is paired over images"
            + (
                "."
                if set(single["mode"].unique()) <= {"exact"}
                else ", estimated from first-order screens and corrected by control variates on some of the images."
            )
        )
    if not cumulative.is_empty():
        orders = names([f"“{order}”" for order in cumulative["order"].unique(maintain_order=True)])
        yield (
            "Growing sets of neurons of a stage were ablated at once, the same share of every layer, ranked on one "
            f"half of the images and ablated on the other, in the orders {orders}; the area is that under (accuracy − "
            "chance) / (intact accuracy − chance) against the share ablated."
        )
        if "faithful" in cumulative["protocol"]:
            yield "Cumulative ablation was made, too, as the released code of Ranadive et al. (2023) makes it."


def _linearity(source: Source) -> Iterator[str]:
    table, settings = source.table("linearity"), source.study.measurements.linearity
    if table.is_empty() or settings is None:
        return
    found = set(table["measure"].unique())
    if "midpoint" in found:
        yield (
            f"Midpoint nonlinearity is the root of Σ‖h(mid) − mean‖² / Σ‖(h₁ − h₂)/2‖² over {settings.pairs} fixed "
            "pairs of inputs, h being a layer’s activations at both inputs and at their midpoint: 0 for an affine map."
        )
    if "gate-churn" in found:
        yield "Gate churn is the share of ReLU gates that differ over the same pairs."
    if "kalimeris" in found:
        yield (
            "The share of the network’s predictions F that a linear model explains is 1 − I(F;Y|L)/I(F;Y) "
            "(Kalimeris et al. 2019), L being the predictions of an L2-regularised logistic regression on the pixels."
        )
    if any(measure.startswith("ridge") for measure in found):
        yield "Ridge R² is how well a linear map of a layer’s activations predicts the class-centred logits, held out."
    if "cka" in found:
        yield (
            f"Similarity of representations is unbiased linear CKA (Kornblith et al. 2019; Nguyen et al. 2021) over "
            f"{settings.cka_images} images."
        )
    if any(measure.startswith("correlation") for measure in found):
        yield "Cross-layer correlation of the most active channels is as in Ranadive et al. (2023)."
    yield "Each measure was made, too, of the same network without its ReLUs."
    if source.study.claims is not None:
        yield (
            "The early window and the end of training were compared by each measure in paired t tests over seeds, "
            "corrected for the number of measures (Benjamini and Hochberg 1995)."
        )


def _statistics(source: Source) -> Iterator[str]:
    claims = source.study.claims
    if claims is None or not source.claims:
        return
    judged = source.claims.get("claims") or ()
    registered = [claim["id"] for claim in judged if not claim.get("own")]
    if registered:
        yield (
            f"The claims {names(registered)} of Ranadive et al. (2023) were judged by clauses fixed beforehand, each "
            "with the smallest effect that counts."
        )
    if own := [claim["id"] for claim in judged if claim.get("own")]:
        yield f"So {'was' if len(own) == 1 else 'were'} {count(len(own), 'claim')} of the study’s own ({names(own)})."
    yield (
        "The seed is the unit of replication: intervals are 95% t intervals over seeds, and claims are corrected for "
        "multiplicity (Holm 1979)."
    )
    window = claims.early_window
    pilots = names([str(seed) for seed in claims.pilot_seeds])
    chosen = f", chosen on pilot seeds {pilots} that were not analysed" if claims.pilot_seeds else ""
    yield f"The early window is {window.unit} 0 to {window.stop:g}{chosen}."


def _software(source: Source) -> Iterator[str]:
    found = [manifest.made.get("versions", {}) for manifest in source.manifests.values() if manifest.made]
    if not found:
        return
    versions = {name: names(sorted({one[name] for one in found if name in one})) for name in ("vestige", "torch")}
    yield f"vestige {versions['vestige']} and PyTorch {versions['torch']} (Paszke et al. 2019)."
