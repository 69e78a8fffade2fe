"""The methods text of a study says what was done and cites it; BibTeX is of what is cited, and of nothing else."""

import re

import polars as pl
import pytest
from made_up_report import made_up_claims, made_up_manifests, made_up_study, made_up_tables

from vestige.report.bibliography import WORKS, bibtex, cited
from vestige.report.figures import Source
from vestige.report.methods import CSI, SELECTIVE
from vestige.report.provenance import table_files
from vestige.report.study_methods import study_methods
from vestige.runs.manifest import Artifact

STEPS = (0, 4, 100)


def text_of(study, tables, claims=None, manifests=None) -> str:
    return " ".join(text for _, text in study_methods(Source(study, tables, claims, manifests or {})))


@pytest.fixture(scope="module")
def made():
    study = made_up_study((0, 1, 2))
    return study, made_up_tables(study, STEPS), made_up_claims(study), made_up_manifests(study)


def test_the_text_has_the_studys_numbers(made):
    text = text_of(*made)
    for said in (
        "resnet8 (width 16; He et al. 2016) was trained on digits (Alpaydin and Kaynak 1998) for 25 epochs",
        "batches of 128",
        "a learning rate of 0.1",
        "with 3 seeds",
        "recomputed from 2\u202f048 training images, fixed and unaugmented.",
        "“early” suppresses class selectivity (CSI), α = −20, from the start to step 12",
        "measured on 1\u202f297 images of the test set",
        "over 1000 fixed pairs",
        "claims C1, C2, C3 and C4 of Ranadive et al. (2023)",
        "The early window is steps 0 to 12, chosen on pilot seeds 100 and 101",
        "vestige 0.1.0 and PyTorch 2.15.0 (Paszke et al. 2019)",
    ):
        assert said in text


def test_what_was_not_done_is_neither_described_nor_cited(made):
    study, tables, *_ = made
    bare = made_up_study((0,), conditions={"baseline": {}}, claims=None, model={"name": "timm:vgg11"})
    text = text_of(bare, {"history": tables["history"].filter(condition="baseline", seed=0)})
    assert text.startswith("timm:vgg11 was trained")
    assert [work.authors for work in cited(text)] == ["Alpaydin and Kaynak"]
    for word in ("selectivity index", "ablated", "CKA", "penalty", "Holm", "recomputed"):
        assert word not in text
    without_cka = tables | {"linearity": tables["linearity"].filter(pl.col("measure") != "cka")}
    assert "Kornblith" in text_of(study, tables)
    assert "Kornblith" not in text_of(study, without_cka)
    no_detector = tables | {"selectivity": tables["selectivity"].with_columns(auroc=pl.lit(None, pl.Float32))}
    assert "Gale" not in text_of(study, no_detector)


def test_the_released_codes_ways_are_named_where_they_were_taken(made):
    _, tables, *_ = made
    conditions = {"baseline": {}, "sum": {"interventions": [{"kind": "selectivity", "estimator": "sum"}]}}
    study = made_up_study((0, 1, 2), conditions=conditions, claims=None)
    assert "class sums for means" in text_of(study, {})
    faithful = tables["selectivity"].with_columns(protocol=pl.lit("faithful"))
    both = {"selectivity": pl.concat([tables["selectivity"], faithful])}
    assert "under the faithful protocol" in text_of(study, both)
    assert "under the faithful protocol" not in text_of(study, tables)


def test_all_that_is_cited_has_an_entry_and_every_entry_is_whole(made):
    text = text_of(*made) + CSI + SELECTIVE
    named = re.findall(r"(?:[A-Z][a-zé]+(?: et al\.| and [A-Z][a-z]+)?),? \(?(?:19|20)\d\d", text)
    assert len(named) > 10
    entries = cited(text)
    for name in named:
        assert any(work.pattern.search(name) for work in entries), name
    assert len({work.bibtex for work in WORKS}) == len(WORKS)
    for work in WORKS:
        assert work.bibtex.count("{") == work.bibtex.count("}")
        assert f"year      = {{{work.year}}}" in work.bibtex
        assert re.match(r"@(article|inproceedings|misc)\{[a-z]+\d{4}[a-z]+,\n", work.bibtex)
        assert work.authors.split()[0] in work.bibtex


def test_bibtex_is_of_the_cited_alone_in_their_order():
    text = "As in Holm (1979), and before (Morcos et al. 2018); see Holm 1979 again, and Zhou et al. 2014."
    assert [work.authors for work in cited(text)] == ["Holm", "Morcos et al."]
    assert bibtex(text).count("@") == 2
    assert bibtex("nothing") == ""


def test_tables_are_counted_from_the_manifests(made):
    manifests = {
        ("baseline", seed): one
        for seed in (0, 1)
        for one in [made_up_manifests(made[0])["baseline", seed]]
    }  # fmt: skip
    for seed, one in enumerate(manifests.values()):
        one.artifacts.clear()
        for step in range(3 + seed):
            one.artifacts[f"linearity-corrected-test/step-{step:08d}.parquet"] = Artifact("k", 1500, "0", 0.1)
        one.artifacts["top_inputs/step-00000000.safetensors"] = Artifact("k", 10, "0", 0.1)
    found = {table.name: table for table in table_files(manifests)}
    assert set(found) == {"history", "linearity-corrected-test"}
    assert (found["linearity-corrected-test"].files, found["linearity-corrected-test"].size) == (7, "10.5 kB")
    assert found["linearity-corrected-test"].pattern == "runs/*/*/linearity-corrected-test/*.parquet"
    assert found["history"].files == 2
    assert table_files({}) == ()
