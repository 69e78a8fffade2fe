"""Weight files are put in order as their training made them; what cannot be measured is refused in plain words."""

import io
import math
import re
import time
from itertools import permutations as orders
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import binomtest

from vestige.errors import ConfigError, DataError, ModelError, StoreError
from vestige.foreign import counting as module
from vestige.foreign.counting import Counting, counting
from vestige.foreign.folder import VERSION, MeasuredFolder, labels
from vestige.foreign.notes import at_chance, layers_words
from vestige.foreign.request import CHOICES, AblationRequest, Request, checked
from vestige.foreign.subject import build_subject, check_classes, logit_width
from vestige.foreign.weight_files import (
    list_weight_files,
    natural,
    number_in,
    scan,
    step_numbers,
    step_source,
)
from vestige.foreign.wording import as_asked, in_options
from vestige.models.weights import load_weights
from vestige.runs.manifest import Artifact

torch.set_num_threads(1)

NUMBERS = {
    "ckpt_10.pth": 10,
    "checkpoint-12.pth.tar": 12,
    "epoch=3-step=500.ckpt": 500,
    "resnet18_e10_acc0.93.pt": 10,
    "checkpoint-500/pytorch_model.bin": 500,
    "run7/step_000128.safetensors": 128,
    "model_best.pth.tar": None,
    "v1.2.pt": None,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_the_last_whole_number_in_a_file_name_is_its_step(name):
    assert number_in(name) == NUMBERS[name]


def test_natural_order_counts():
    names = ["step-1.pt", "step-2.pt", "step-10.pt", "step-100.pt"]
    assert all(sorted(order, key=natural) == names for order in orders(names))


def test_steps_are_whole_numbers_however_they_are_stored():
    content = {"global_step": torch.tensor(5), "step": 7.0, "iteration": np.int64(9), "epoch": "3", "state_dict": {}}
    assert step_numbers(content) == {"global_step": 5, "step": 7, "iteration": 9}
    assert step_numbers({"epoch": 2.5, "step": True, "iteration": -1, "global_step": torch.ones(2)}) == {}
    assert step_numbers({"epoch": math.nan, "step": math.inf}) == {}


def scanned(tmp_path, contents):
    """Scan files of which each is (hash of weights, content), or an error."""
    for name in contents:
        path = tmp_path / "ck" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")

    def load(path):
        given = contents[path.relative_to(tmp_path / "ck").as_posix()]
        if isinstance(given, Exception):
            raise given
        return given[0], given[1], ()

    return scan(tmp_path / "ck", load)


def order_of(files):
    return [(file.name, file.step) for file in files]


def test_files_are_ordered_by_the_finest_number_that_all_hold(tmp_path):
    files = scanned(
        tmp_path,
        {
            "a.pt": ("A", {"epoch": 2, "global_step": 900}),
            "b.pt": ("B", {"epoch": 1, "global_step": 1000}),
            "c10.pt": ("C", {"epoch": 3, "global_step": 5}),
        },
    )
    assert order_of(files) == [("c10.pt", 5), ("a.pt", 900), ("b.pt", 1000)]
    assert [file.epoch for file in files] == [3.0, 2.0, 1.0]
    assert step_source(files) == "global_step"


def test_units_are_not_mixed_where_one_file_does_not_know_its_step(tmp_path):
    contents = {"m_3.pt": ("A", {"epoch": 1}), "m_20.pt": ("B", {"epoch": 2}), "m_9.safetensors": ("C", {})}
    files = scanned(tmp_path, contents)
    assert order_of(files) == [("m_3.pt", 3), ("m_9.safetensors", 9), ("m_20.pt", 20)]
    assert step_source(files) == "file name"


def test_a_copy_without_numbers_leaves_those_of_its_original(tmp_path):
    files = scanned(tmp_path, {"m_3.pt": ("A", {"step": 5}), "m_4.pt": ("B", {"step": 9}), "last.pt": ("B", {})})
    assert order_of(files) == [("m_3.pt", 5), ("m_4.pt", 9), ("last.pt", None)]
    assert files[2].duplicate_of == "m_4.pt"
    assert step_source(files) == "step"


def test_a_number_that_stands_for_different_weights_is_no_step(tmp_path):
    files = scanned(tmp_path, {"m_1.pt": ("A", {"epoch": 0}), "m_2.pt": ("B", {"epoch": 0})})
    assert order_of(files) == [("m_1.pt", 1), ("m_2.pt", 2)]
    files = scanned(tmp_path / "two", {"a_1.pt": ("A", {}), "b_1.pt": ("B", {})})
    assert order_of(files) == [("a_1.pt", None), ("b_1.pt", None)]
    assert step_source(files) == ""


def test_duplicates_are_found_by_their_weights_and_refer_to_the_first(tmp_path):
    files = scanned(tmp_path, {"best.pt": ("B", {}), "s1.pt": ("A", {}), "s2.pt": ("B", {}), "s3.pt": ("B", {})})
    assert order_of(files) == [("s1.pt", 1), ("s2.pt", 2), ("s3.pt", 3), ("best.pt", None)]
    assert [file.duplicate_of for file in files] == [None, None, "s2.pt", "s2.pt"]
    assert [file.measured for file in files] == [True, True, False, False]


def test_an_unreadable_file_does_not_keep_the_others_from_having_steps(tmp_path):
    broken = ModelError("reading weights s2.pt", found="it is truncated", remedy="Get it anew")
    files = scanned(tmp_path, {"s1.pt": ("A", {"step": 4}), "s2.pt": broken, "s3.pt": ("B", {"step": 8})})
    assert order_of(files) == [("s1.pt", 4), ("s3.pt", 8), ("s2.pt", None)]
    assert [file.error for file in files] == [None, None, broken]


def test_only_weight_files_are_looked_at(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.pth", "a.PT", "log.txt", ".hidden.pt", "deep/c.bin"):
        (tmp_path / name).write_text("x")
    assert [path.relative_to(tmp_path).as_posix() for path in list_weight_files(tmp_path)] == [
        "a.PT",
        "b.pth",
        "deep/c.bin",
    ]


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such folder\. Check the path"):
        list_weight_files(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"there is none\. Give a folder that holds files ending with \.safetensors"):
        list_weight_files(tmp_path)
    (tmp_path / "a.pt").write_text("x")
    with pytest.raises(ConfigError, match=r"it is no folder\. Give one file as --weights"):
        list_weight_files(tmp_path / "a.pt")


@pytest.mark.parametrize(("right", "n", "classes"), [(3, 30, 10), (6, 30, 10), (7, 30, 10), (50, 100, 2), (62, 100, 2)])
def test_at_chance_is_a_one_sided_exact_binomial_test(right, n, classes):
    p = binomtest(right, n, 1 / classes, alternative="greater").pvalue
    warning = at_chance(right / n, n, classes)
    assert bool(warning) == (p > 0.05)
    if warning:
        assert f"p = {p:.2g}" in warning
        for cause in ("--class-map", "--preprocess", "--weights"):
            assert cause in warning


def test_the_rules_that_found_layers_are_counted():
    layers = [("a", "s", 4, "ReLU"), ("b", "s", 4, "ReLU"), ("c", "s", 4, "asked for")]
    assert layers_words(layers[:1]) == "1 layer measured (ReLU)."
    assert layers_words(layers) == "3 layers measured (2 ReLU, 1 asked for)."
    residual = ("d", "s", 4, "ReLU after a residual addition")
    assert "of residual blocks only the outputs" in layers_words([residual])
    assert "only" not in layers_words([residual, layers[2]])


def subject_of(name, files=(), **settings):
    return build_subject(name, files, **{"asked": None, "in_data": None, "shape": (3, 32, 32), **settings})


def test_classes_come_from_the_weights_then_the_user_then_the_data(tmp_path):
    torch.save(subject_of("torchvision:squeezenet1_1", in_data=7).model.state_dict(), tmp_path / "w.pt")
    (tmp_path / "a.pt").write_text("broken")
    files = [tmp_path / "a.pt", tmp_path / "w.pt"]
    subject = subject_of("torchvision:squeezenet1_1", files, in_data=3)
    assert subject.classes == 7
    load_weights(subject.model, torch.load(tmp_path / "w.pt"), "w.pt")
    assert logit_width(subject.model, torch.zeros(2, 3, 64, 64)) == 7
    assert subject_of("torchvision:squeezenet1_1", in_data=3, asked=5).classes == 5
    with pytest.raises(ConfigError, match=r"--classes is 5, and the weights are for 7 classes\. Leave --classes out"):
        subject_of("torchvision:squeezenet1_1", files, asked=5)


def test_other_numbers_of_classes_need_a_map():
    check_classes(10, 10, asked=None, mapped=False)
    check_classes(1000, 10, asked=None, mapped=True)
    check_classes(20, 10, asked=20, mapped=False)
    check_classes(10, None, asked=None, mapped=False)
    with pytest.raises(ConfigError, match=r"the model has 1000 classes, the data have 10\. Say which is which: "
                       r"--class-map FILE.*or --classes 1000 where the labels are"):  # fmt: skip
        check_classes(1000, 10, asked=None, mapped=False)
    with pytest.raises(ConfigError, match=r"the model has 5 classes, the data have 10\. Say.*data\.$"):
        check_classes(5, 10, asked=None, mapped=False)
    with pytest.raises(
        ConfigError, match=r"the data have 11 \(labels 1 to 10\)\. If .* count from 1, subtract 1: .* from 0\.$"
    ):
        check_classes(10, 11, asked=None, mapped=False, lowest=1)
    with pytest.raises(ConfigError, match=r"--classes is 7, and the model gives 10 logits\. Leave it out"):
        check_classes(10, 7, asked=7, mapped=False)


def test_a_model_that_cannot_take_the_images_is_told_so():
    model = torch.nn.Linear(4, 2)
    with pytest.raises(ModelError, match=r"trying the Linear on inputs of shape \(1, 3\): its forward raises Runtime"):
        logit_width(model, torch.zeros(1, 3))
    with pytest.raises(ModelError, match=r"it gives shape \(1, 5, 2\), not a row of logits for each input"):
        logit_width(model, torch.zeros(1, 5, 4))


WRONG = {
    "protocol": (
        {"protocol": ("faithfull",)},
        "reading --protocol: unknown value 'faithfull'. Did you mean 'faithful'?",
    ),
    "dtype": ({"dtype": "float16"}, "reading --dtype: unknown value 'float16'. Did you mean"),
    "batch norm": ({"batch_norm": "recalibrated"}, "reading --batch-norm: unknown value"),
    "rectify": ({"rectify": "absolute"}, "reading --rectify: unknown value 'absolute'"),
    "bad image": ({"on_bad_image": "ignore"}, "reading --on-bad-image: unknown value 'ignore'"),
    "limit": ({"limit": 0}, "reading --limit: 0 is less than 1"),
    "permutations": ({"permutations": -1}, "reading --permutations: -1 is less than 0. Give 0 for none"),
    "both": ({"weights": "a", "checkpoints": "b"}, "both --weights and --checkpoints"),
    "module": ({"model": "mine:make"}, "unknown kind of model 'mine:make'. Write torchvision:NAME, timm:NAME, path.py"),
    "model": ({"model": "timm/resnet18"}, "unknown kind of model 'timm/resnet18'. Write torchvision:NAME"),
}


@pytest.mark.parametrize("case", WRONG)
def test_options_that_make_no_sense_are_named_as_they_are_written(case):
    given, message = WRONG[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        checked(Request(**{"model": "resnet8", "data": "digits", **given}))


def test_what_was_meant_is_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "ck").mkdir()
    with pytest.raises(ConfigError, match=r"path\.py:object; for 'make' of your own file, mine\.py:make\."):
        checked(Request(model="mine:make", data="digits"))
    with pytest.raises(ConfigError, match=r"--weights: ck is a folder\. Give it as --checkpoints ck, or one file"):
        checked(Request(model="resnet8", data="digits", weights=Path("ck")))


WORDS = {
    "without training_data they (batch_norm='stored' takes": "without --training-data they (--batch-norm stored takes",
    "(the first): `images` says how many.": "(the first): --images says how many.",
    "both ranking_data and held_out=True": "both --ranking-data and --held-out",
    "reading class_map": "reading --class-map",
    "Give several: top_k=(1,)": "Give several: top_k=(1,)",
    "at 'batch_norm'): it has": "at 'batch_norm'): it has",
    "the images in my/training_data/a.parquet": "the images in my/training_data/a.parquet",
    "`selective` is the flag alone there": "`selective` is the flag alone there",
}


@pytest.mark.parametrize("text", WORDS)
def test_arguments_of_python_are_said_as_options(text):
    assert in_options(text) == WORDS[text]


def test_an_error_names_the_option_that_gave_the_images():
    request = AblationRequest(model="resnet8", data="folder:a", training_data="folder:a", ranking_data="folder:b")
    for split, spec, option in (("test", "a", "data"), ("train", "a", "training-data"), ("test", "b", "ranking-data")):
        error = DataError(f"reading data.{split} 'folder:{spec}'", found="x", remedy="Y")
        assert str(as_asked(error, request)) == f"reading --{option} 'folder:{spec}': x. Y."


def test_every_choice_is_taken():
    for name, choices in CHOICES.items():
        for choice in choices:
            value = (choice,) if name in ("protocol", "value") else choice
            kind = AblationRequest if name in ("value", "mode") else Request
            request = kind(**{"model": "resnet8", "data": "digits", name: value})
            assert checked(request) is request


def test_the_folder_is_named_after_the_model():
    assert Request(model="timm:vit/x", data="digits").folder.as_posix() == "measured/x"
    assert Request(model="torchvision:resnet18", data="digits").folder.as_posix() == "measured/torchvision-resnet18"


def test_files_are_called_by_step_or_by_name():
    assert labels(["a.pt", "b/c d.pth", "x.pt"], [12, None, None]) == ["step-00000012", "b-c-d", "x"]
    assert labels(["a.pt", "a.safetensors"], [None, None]) == ["a-1", "a-2"]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    folder, identity = MeasuredFolder(tmp_path / "out"), {"data": "x", "deep": {"size": 32}}
    folder.refuse_others(identity)
    (tmp_path / "out").mkdir()
    folder.refuse_others(identity)
    (tmp_path / "out/thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"it holds other things: thesis\.tex\. Give another --out"):
        folder.refuse_others(identity)
    folder.write_record({"identity": identity})
    folder.refuse_others(identity)
    with pytest.raises(StoreError, match=r"made by other settings: deep\.size is 64, was 32\. Give another --out"):
        folder.refuse_others({**identity, "deep": {"size": 64}})
    folder.record.write_text(f'{{"kind": "{MeasuredFolder.kind}", "version": {VERSION + 1}}}')
    with pytest.raises(StoreError, match=r"not of this version of vestige"):
        folder.refuse_others(identity)
    with pytest.raises(StoreError, match=r"it is a file"):
        MeasuredFolder(folder.record).refuse_others(identity)


def test_two_commands_do_not_measure_into_one_folder(tmp_path):
    folder = MeasuredFolder(tmp_path / "out")
    with folder.alone(), pytest.raises(StoreError, match="another vestige is at work in it"), folder.alone():
        pass
    with folder.alone():
        pass


def test_a_checkpoint_is_done_when_its_files_are_whole(tmp_path):
    folder = MeasuredFolder(tmp_path)
    (tmp_path / "a.parquet").write_text("abc")
    artifact = vars(Artifact.of(tmp_path / "a.parquet", "k", 0.0))
    entry = {"key": "k", "artifacts": {"a.parquet": artifact}}
    assert folder.is_done(entry, "k")
    assert not folder.is_done(entry, "other")
    assert not folder.is_done(None, "k")
    (tmp_path / "a.parquet").write_text("abd")
    assert folder.is_done(entry, "k")
    assert not folder.is_done(entry, "k", verify=True)
    (tmp_path / "a.parquet").unlink()
    assert not folder.is_done(entry, "k")


def test_progress_counts_over_passes(capsys):
    with counting(2, 100, show=True) as count:
        count.begin("a")
        count.at(50, 100)
        count.at(130, 100)
        count.begin("b")
        count.at(100, 100)
    said = capsys.readouterr().err
    assert re.fullmatch(r"measuring 200/200 images, \S+ a second, time left done\n", said)
    with counting(1, None, show=True) as count:
        count.begin("a")
        count.at(7)
        assert (count.done, count.total) == (7, None)
    assert capsys.readouterr().err == ""


def test_what_comes_before_is_said_and_is_no_part_of_the_rate(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with counting(1, None, show=True, what=("measuring", "inputs")) as count:
        count.begin("a")
        count.before("fitting the linear model")
        assert capsys.readouterr().err == "fitting the linear model\n"
        now[0] = 45
        count.at(0, 300)
        assert capsys.readouterr().err == ""
        now[0] = 56
        count.at(110, 300)
        now[0] = 75
        count.at(300, 300)
    assert capsys.readouterr().err.splitlines() == [
        "measuring 110/300 inputs, 10 a second, time left 0:00:19",
        "measuring 300/300 inputs, 10 a second, time left done",
    ]
    with counting(1, 300_000, show=True) as count:
        count.begin("a")
        count.at(0, 300_000)
        now[0] += 30
        count.at(300_000, 300_000)
    assert ", 10,000 a second" in capsys.readouterr().err


def test_a_bar_without_a_total_shows_none(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    monkeypatch.setattr(module, "Console", lambda **_: console)
    with counting(1, None, show=True, what=("measuring", "inputs")) as count:
        count.begin("a")
        count.before("fitting [the] linear model")
        fitting = console.file.getvalue()
        count.at(7, 14)
    assert "fitting [the] linear model" in fitting
    assert "0 inputs" in fitting
    assert "7/14 inputs" in console.file.getvalue()
    assert "measuring" in console.file.getvalue().replace(fitting, "")
    assert "None" not in console.file.getvalue()


def test_progress_that_is_not_shown_is_silent(capsys):
    with counting(1, 3, show=False) as count:
        assert type(count) is Counting
        count.begin("a")
        count.at(3, 3)
        count.say("nothing")
    assert capsys.readouterr() == ("", "")
