"""The training loop, as `events` draws it: one run, from its beginning or from where it was stopped."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch.nn import functional

from vestige.config import StudyConfig
from vestige.data.loader import Batch, part_of
from vestige.errors import TrainingError
from vestige.runs.store import RunFolder
from vestige.training.bench import Bench, prepare
from vestige.training.events import Event, Intervention
from vestige.training.gradients import backward
from vestige.training.history import Meter, NotFiniteError, Row, evaluate
from vestige.training.interventions import Given
from vestige.training.keeper import Keeper, Parent
from vestige.training.processes import Processes, own_compute
from vestige.training.runtime import Asked, autocast, catching_sigterm, seed_step, session
from vestige.training.schedule import checkpoint_steps, learning_rate
from vestige.training.state import Progress, read_state

__all__ = ["Parent", "train_run"]

LOOK_EVERY = 64
"""Steps between looks at the loss: each look waits for the device."""
REPORT_SECONDS = 0.2

Report = Callable[[int, int], None]
"""Called with the steps taken, and the steps in all."""


def train_run(
    study: StudyConfig,
    condition: str,
    seed: int,
    run: RunFolder,
    *,
    key: str,
    settings: dict[str, Any],
    parent: Parent | None = None,
    onsets: Sequence[int] = (),
    given: Given | None = None,
    progress: Report | None = None,
) -> None:
    """Train one run to its end, going on from its latest whole state.

    Where torch.distributed is initialised all its processes must call it, and share the run: the first of them alone
    writes files and reports progress.

    Args:
      study: the study.
      condition: one of its conditions.
      seed: of initialisation, order, augmentation and whatever else is random.
      run: where its files go.
      key: hash of everything that can change its weights; what another key made is not used.
      settings: the same, readable, for the manifest.
      parent: the state to begin from instead of the initialisation; checkpoints and history then only hold
        the steps after it.
      onsets: steps at which the full state is kept, for late conditions to branch from.
      given: what interventions need from outside the run; folders of this run and its parent need not be in it.
      progress: called now and then, and at the end.

    Raises:
      ConfigError: an intervention without effect; a device that is not there.
      DataError, ModelError: images or a network that cannot be used.
      StoreError: files that cannot be written or read.
      TrainingError: a loss or weights that are NaN or infinite.
      SystemExit: the process, or one that shares the run, got SIGTERM; the full state was kept.
      OnlyHereError: only this one of several processes has failed.
    """
    processes = Processes.here()
    given = replace(given or Given(), study=study, run=run, parent=parent)
    compute = processes.together(lambda: own_compute(study.compute, processes))
    with (
        processes.failing_alike(f"{condition}/seed-{seed}"),
        session(compute) as device,
        catching_sigterm() as asked,
    ):
        bench = processes.together(lambda: prepare(study, condition, seed, device, given, processes))
        steps_per_epoch = bench.state.steps_per_epoch
        first = 0 if parent is None else parent.step + 1
        planned = checkpoint_steps(study.checkpoints, steps_per_epoch, study.recipe.epochs)
        keeper = Keeper(
            run,
            condition,
            seed,
            key,
            settings,
            planned=[step for step in planned if step >= first],
            onsets=[step for step in onsets if step >= first],
            steps_per_epoch=steps_per_epoch,
            columns=[f"{one.name}.{quantity}" for one in bench.interventions for quantity in one.quantities],
            parent=parent,
            processes=processes.world,
        )
        _train(bench, keeper, progress if progress and not processes.rank else _no_report, asked)


def _no_report(done: int, total: int) -> None: ...


def _train(bench: Bench, keeper: Keeper, report: Report, asked: Asked) -> None:
    state, total, processes = bench.state, bench.total_steps, bench.state.processes
    done = _begin(bench, keeper)
    meter = Meter(state.classes, done.sums)
    _tell(Event.RUN_START, bench.interventions, bench)
    if done.step in keeper.planned and not done.rows:
        _keep(bench, keeper, meter, done)
    stops = {*keeper.planned, *keeper.onsets}
    seconds = 60 * (bench.study.compute.state_minutes or math.inf)
    reported = kept = time.monotonic()
    batches = bench.loader.batches(done.step, total)
    while done.step < total:
        _step(bench, done.step, processes.together(lambda: next(batches)), meter)
        done.step += 1
        now = time.monotonic()
        ending, due = processes.any_of(bool(asked), now - kept > seconds)
        if done.step in stops or ending or due:
            _keep(bench, keeper, meter, done)
            kept = time.monotonic()
        elif done.step % LOOK_EVERY == 0:
            _look(bench, meter, keeper)
        if now - reported > REPORT_SECONDS:
            reported = now
            report(done.step, total)
        if ending and done.step < total:
            raise SystemExit(128 + signal.SIGTERM)
    _tell(Event.RUN_END, bench.interventions, bench)
    report(total, total)


def _begin(bench: Bench, keeper: Keeper) -> Progress:
    """Take up the latest whole state, which the first process finds."""
    state, processes = bench.state, bench.state.processes
    found = processes.at_first(lambda: keeper.begin(state.model, state.optimizer, bench.interventions))
    done, begun = processes.from_first((found, keeper.begun))
    assert done is not None
    if processes.rank and begun is not None:
        read_state(begun, state.model, state.optimizer, bench.interventions)
    return done


def _step(bench: Bench, step: int, batch: Batch, meter: Meter) -> None:
    """One optimiser step; `events` draws it."""
    state, recipe, processes = bench.state, bench.study.recipe, bench.state.processes
    active = [one for one in bench.interventions if one.active(step)]
    seed_step(state.device, state.seed, step)
    state.step, state.lr = step, learning_rate(recipe, step, state.steps_per_epoch)
    state.inputs = batch.inputs.to(state.device, non_blocking=True, memory_format=bench.layout)
    state.labels_cpu, state.indices = batch.labels, batch.indices
    state.labels = batch.labels.to(state.device, non_blocking=True)
    _tell(Event.BATCH_START, active, bench)
    with autocast(state.device, recipe.dtype):
        with processes.drawing_apart(state.device, state.seed, step):
            logits, state.activations = bench.forward(active)(state.inputs)
        state.logits = state.whole(logits)
        if processes.world > 1:  # one without a part has run the network on an image that is not its own
            part = part_of(len(state.labels), processes.share)
            state.activations = {node: rows[: part.stop - part.start] for node, rows in state.activations.items()}
        _tell(Event.FORWARD_END, active, bench)
        state.cross_entropy = functional.cross_entropy(state.logits, state.labels)
    state.loss = state.cross_entropy
    terms = [(one, penalty) for one in active if (penalty := one.penalty(state)) is not None]
    for one, penalty in terms:
        state.loss = state.loss + penalty
        if step == one.window[0]:
            processes.check_penalty(one.name, penalty)
    _tell(Event.LOSS_END, active, bench)
    state.optimizer.zero_grad(set_to_none=True)
    backward(state, active, terms)
    _tell(Event.BACKWARD_END, active, bench)
    for group in state.optimizer.param_groups:
        group["lr"] = state.lr
    state.optimizer.step()
    _tell(Event.STEP_END, active, bench)
    _note(bench, active, meter)


def _note(bench: Bench, active: Sequence[Intervention], meter: Meter) -> None:
    state = bench.state
    meter.add_batch(state.step, state.lr, state.loss, state.cross_entropy, state.logits, state.labels)
    for one in active:
        for quantity, value in one.log().items():
            add = meter.add_latest if quantity in one.cumulative else meter.add_scalar
            add(f"{one.name}.{quantity}", value)
    state.activations = {}  # else the maps of this step are held through the next


def _tell(event: Event, listeners: Iterable[Intervention], bench: Bench) -> None:
    for one in listeners:
        one.on(event, bench.state)


def _keep(bench: Bench, keeper: Keeper, meter: Meter, done: Progress) -> None:
    """Look at the loss and the weights; at a planned step add rows to the history; write what is due."""
    _look(bench, meter, keeper)
    state, processes = bench.state, bench.state.processes
    lr = state.lr if done.step else learning_rate(bench.study.recipe, 0, state.steps_per_epoch)
    if not all(bool(parameter.isfinite().all()) for parameter in state.model.parameters()):
        raise _diverged(max(done.step - 1, 0), lr, bench, keeper, "the weights are NaN or infinite")
    processes.check_same(_doing(keeper, done.step), state.model)
    if done.step in keeper.planned:
        where = {"step": done.step, "epoch": done.step / state.steps_per_epoch, "lr": lr}
        rows: list[Row] = []
        if means := meter.take():
            rows.append({**where, "split": "train", **means})
        test = _test(bench)
        if not math.isfinite(test["loss"]):
            raise _diverged(max(done.step - 1, 0), lr, bench, keeper, f"the test loss is {test['loss']}")
        rows.append({**where, "split": "test", **test})
        done.rows = [*done.rows, *rows]
    done.sums = dict(meter.sums)
    processes.at_first(lambda: keeper.save(state.model, state.optimizer, done, bench.interventions))
    if done.step in keeper.planned:
        _tell(Event.CHECKPOINT, bench.interventions, bench)


def _test(bench: Bench) -> dict[str, float]:
    study, state = bench.study, bench.state
    return evaluate(
        state.model,
        bench.test,
        study.data,
        tile=study.measurements.tile,
        classes=state.classes,
        device=state.device,
        dtype=study.recipe.dtype,
        memory_format=bench.layout,
        processes=state.processes,
    )


def _look(bench: Bench, meter: Meter, keeper: Keeper) -> None:
    try:
        meter.flush()
    except NotFiniteError as error:
        raise _diverged(error.step, error.lr, bench, keeper, f"the loss is {error.loss}") from error


def _diverged(step: int, lr: float, bench: Bench, keeper: Keeper, found: str) -> TrainingError:
    doses = [(one.name, one.log().get("dose")) for one in bench.interventions if one.window[0] <= step]
    told = "".join(f", dose of {name} {float(dose):.3g}" for name, dose in doses if dose is not None)
    error = TrainingError(
        _doing(keeper, step),
        found=f"{found}, at learning rate {lr:g}{told}; {keeper.last_checkpoint()}",
        remedy="Lower recipe.lr or the alpha of the interventions, or warm up (recipe.warmup_epochs)",
    )
    if not bench.state.processes.rank:
        keeper.fail(f"at step {step} {error.found}")
    return error


def _doing(keeper: Keeper, step: int) -> str:
    return f"training {keeper.condition!r}, seed {keeper.seed}, at step {step}"
