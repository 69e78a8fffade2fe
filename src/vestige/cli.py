"""The `vestige` command. Heavy imports happen only inside the commands that need them.

Any field of a study can be set as `--field value`: `--recipe.epochs 10 --seeds 0 1`. Such fields are taken out before
tyro reads the rest, since their names are those of `vestige.config`.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vestige.errors import ConfigError, VestigeError, nearest
from vestige.foreign import commands
from vestige.foreign.request import AblateOptions, LinearityOptions, MeasureOptions

if TYPE_CHECKING:
    from vestige.foreign.turns import Outcome
    from vestige.study.together import Followers

StudyArgument = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]


@dataclass(frozen=True)
class _OnStudy:
    parts: ClassVar[tuple[str, ...]] = ()

    study: StudyArgument = "digits"
    """Name of a study that ships (`vestige studies`), a YAML file, or the folder of a study that was begun."""
    out: Path | None = None
    """Folder to work in; by default ./studies/NAME."""
    only: tuple[str, ...] = ()
    """Train and measure only these conditions."""
    verify: bool = False
    """Hash every file again, rather than trust its size."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Run(_OnStudy):
    """Everything that is missing: train, measure, judge the claims, write the report."""

    parts: ClassVar[tuple[str, ...]] = ("train", "measure", "claims", "report")


@dataclass(frozen=True)
class Train(_OnStudy):
    """Train the runs that are missing."""

    parts: ClassVar[tuple[str, ...]] = ("train",)


@dataclass(frozen=True)
class Measure(_OnStudy, MeasureOptions):
    """Make the tables of a study that are missing; or, with --model, measure the neurons of any classifier."""

    parts: ClassVar[tuple[str, ...]] = ("measure",)

    study: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")] = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name of a study that ships, a YAML file, or the folder of a study; by default digits. Not with --model."""
    out: Path | None = None
    """Folder to work in; by default ./studies/NAME, with --model ./measured/NAME."""


@dataclass(frozen=True)
class Ablate(AblateOptions):
    """Replace the neurons of any classifier, each alone, and see what that does to it."""

    out: Path | None = None
    """Folder to work in; by default ./ablated/NAME."""
    verify: bool = False
    """Hash every file again, rather than trust its size."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Linearity(LinearityOptions):
    """Measure how close to linear any classifier is, beside the same classifier without its ReLUs."""

    out: Path | None = None
    """Folder to work in; by default ./linearity/NAME."""
    verify: bool = False
    """Hash every file again, rather than trust its size."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Claims(_OnStudy):
    """Judge the claims from the tables that are there."""

    parts: ClassVar[tuple[str, ...]] = ("claims",)


@dataclass(frozen=True)
class Report(_OnStudy):
    """Write the report from the tables that are there; or, with --figures or --columns, figures for a paper alone."""

    parts: ClassVar[tuple[str, ...]] = ("claims", "report")

    figures: tuple[str, ...] = ()
    """Figures for a paper: F1,F3, or single files: F1-conditions. None: all, where --columns is given."""
    columns: tuple[Literal[1, 2], ...] = ()
    """As wide as one column of a page (1), as both (2), by default each."""


@dataclass(frozen=True)
class Compare:
    """Two studies side by side, in one page."""

    study_a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY_A")]
    """The folder of a study, or the name of one that lies in ./studies."""
    study_b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY_B")]
    """The other one."""
    out: Path | None = None
    """Folder to write in; by default ./compared/A-and-B."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Status:
    """What of a study is done, running, missing or stale, and what the rest costs."""

    study: StudyArgument = "digits"
    """Name of a study that ships, a YAML file, or the folder of a study that was begun."""
    out: Path | None = None
    """Its folder; by default ./studies/NAME."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Studies:
    """The studies that ship, and what they cost on this machine."""

    debug: bool = False
    """Show the traceback of an error."""


COMMANDS = (Run, Train, Measure, Ablate, Linearity, Claims, Report, Compare, Status, Studies)
DESCRIPTION = """A laboratory for single neurons through training: train with dense checkpoints, measure every neuron,
ablate every single one, measure linearity, and say with honest statistics what holds. Any field of a study is an
option: --recipe.epochs 10 --seeds 0 1."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's error ends in one message and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        plain, settings = split_settings(given)
        command = tyro.cli(
            Run | Train | Measure | Ablate | Linearity | Claims | Report | Compare | Status | Studies,  # pyright: ignore[reportArgumentType]
            prog="vestige",
            description=DESCRIPTION,
            args=plain,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        code = _do(command, settings)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except VestigeError as error:
        _complain(error, debug)
        code = 2
    except KeyboardInterrupt:
        print("\nstopped; what was done is kept: run the same command again to go on", file=sys.stderr)
        code = 130
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM and os.environ.get("RANK", "0") == "0":
            print("stopped by SIGTERM; what was done is kept: run the same command again to go on", file=sys.stderr)
        raise
    except Exception as error:
        if debug:
            raise
        print(
            f"error: vestige itself failed: {type(error).__name__}: {error}\n"
            "What was done is kept. Run again with --debug for the traceback, and please report it.",
            file=sys.stderr,
        )
        code = 1
    sys.exit(code)


def split_settings(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """Part the fields of a study from the options of the command, which is the first argument.

    Returns:
      The arguments without the fields, and pairs of a field and its value.

    Raises:
      ConfigError: a field without a value, or with a value that is no YAML.
    """
    called = [command for command in COMMANDS if command.__name__.lower() in arguments[:1]] or [_OnStudy]
    options = {"help", "h"} | {f.name for f in fields(called[0])}
    plain: list[str] = []
    found: list[tuple[str, list[str]]] = []
    taking = plain
    for argument in arguments:
        if not argument.startswith("--"):
            taking.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        if name.replace("-", "_") in options:
            plain.append(argument)
            taking = plain
        else:
            found.append((name.replace("-", "_"), [value] if equals else []))
            taking = found[-1][1]
    from vestige.config import parse_setting

    return plain, [(name, parse_setting(name, values)) for name, values in found]


def _do(command: Any, settings: list[tuple[str, Any]]) -> int:
    match command:
        case Studies():
            _refuse(settings)
            return _studies()
        case Status():
            return _status(command, settings)
        case Report() if command.figures or command.columns:
            return _figures(command, settings)
        case Compare():
            _refuse(settings, Compare)
            return _compare(command)
        case Measure() if command.model is not None:
            _refuse(settings, Measure)
            return _tell(commands.measure(command), command.debug)
        case Ablate():
            _refuse(settings, Ablate)
            return _tell(commands.ablate(command), command.debug)
        case Linearity():
            _refuse(settings, Linearity)
            return _tell(commands.linearity(command), command.debug)
        case _:
            return _run(command, settings)


def _refuse(settings: list[tuple[str, Any]], command: type | None = None) -> None:
    if settings:
        option = settings[0][0]
        raise ConfigError(
            "reading the command line",
            found=f"unknown option --{option}",
            remedy=nearest(option, [f.name.replace("_", "-") for f in fields(command)])
            if command
            else "See vestige --help",
        )


def _run(command: _OnStudy, settings: list[tuple[str, Any]]) -> int:
    _refuse_model_options(command)
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return _run_study(command, settings)
    from vestige.study.together import led  # of several processes of torchrun

    def lead(followers: "Followers") -> int:
        try:
            return _run_study(command, settings, followers)
        except VestigeError as error:  # said before the others hear of it: torchrun ends all as soon as one has
            _complain(error, command.debug)
            return 2

    return led(lead)


def _run_study(command: _OnStudy, settings: list[tuple[str, Any]], followers: "Followers | None" = None) -> int:
    from vestige.study.study import Study

    if followers is not None and "train" in command.parts:
        settings = [("compute.processes", followers.world), *settings]
    study = Study.load(command.study or "digits", out=command.out, overrides=settings)
    outcome = study.run(parts=command.parts, only=command.only, verify=command.verify, show=True, followers=followers)
    if outcome.claims and "claims" in command.parts:
        _print_verdicts(outcome.claims)
    if outcome.report:
        print(f"report: {_relative(outcome.report)}")
    if outcome.older:
        page, folder = _relative(outcome.older), _relative(study.folder.path)
        print(f"report: {page} is older than this; `vestige report {folder}` writes it again")
    for error in {str(error): error for error in outcome.errors.values()}.values():
        _complain(error, command.debug)
    return 2 if outcome.errors else 0


def _refuse_model_options(command: _OnStudy) -> None:
    """Options that go with --model, given without it."""
    own = {f.name for f in fields(_OnStudy)}
    for option in fields(command):
        if option.name not in own and getattr(command, option.name) != option.default:
            name = option.name.replace("_", "-")
            raise ConfigError(
                "reading the command line",
                found=f"--{name} without --model",
                remedy=f"Give --model too; a study is set by its fields (--{name}.FIELD), see its study.yaml",
            )


def _tell(outcome: "Outcome", debug: bool) -> int:
    """Say how a command on a foreign model ended."""
    if outcome.printing:
        for note in outcome.notes:
            print(f"note: {note}", file=sys.stderr)
        if not (outcome.made or outcome.errors):
            print("nothing to do: everything that was asked for is there already")
        for line in outcome.lines:
            print(line)
        print(f"report: {_relative(outcome.folder.report)}")
        for error in outcome.errors:
            _complain(error, debug)
    return 2 if outcome.errors else 0


def _print_verdicts(claims: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for claim in claims["claims"]:
        console.print(f"[bold]{claim['id']}[/bold] {escape(claim['title'])}: [bold]{claim['verdict']}[/bold]")
        for line in (claim["sentence"], *claim.get("changed", ())):
            console.print(f"   {line}", markup=False)
    registration = claims["registration"]
    for line in registration["broken"]:
        console.print(f"claims-registered.json was edited by hand: {line}.", markup=False)
    for line in registration["changed"]:
        console.print(f"{line[0].upper()}{line[1:]}.", markup=False)
    said = f"The claims were {registration['note']}." if claims["claims"] else "The study registers no claims."
    console.print(said, markup=False)


def _status(command: Status, settings: list[tuple[str, Any]]) -> int:
    from vestige.study.status import describe
    from vestige.study.study import Study

    for line in describe(Study.load(command.study, out=command.out, overrides=settings)):
        print(line)
    return 0


def _figures(command: Report, settings: list[tuple[str, Any]]) -> int:
    from vestige.study.drawing import draw_figures
    from vestige.study.study import Study

    study = Study.load(command.study, out=command.out, overrides=settings)
    names = [name for given in command.figures for name in given.split(",") if name]
    for path in draw_figures(study, names, command.columns or (1, 2)):
        print(_relative(path))
    return 0


def _compare(command: Compare) -> int:
    from vestige.study.comparing import compare

    print(f"comparison: {_relative(compare(command.study_a, command.study_b, out=command.out))}")
    return 0


def _studies() -> int:
    from vestige.study.status import shipped_studies

    table = Table(box=None, pad_edge=False)
    for heading in ("study", "what", "cost here"):
        table.add_column(heading, overflow="fold")
    for row in shipped_studies():
        table.add_row(*row)
    Console(highlight=False).print(table)
    return 0


def _complain(error: VestigeError, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)


def _relative(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
