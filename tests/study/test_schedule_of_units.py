"""Which units are begun, and which fail with what they need."""

from concurrent.futures import Future

from test_asking import EARLY, SHAM, plan

from vestige.errors import TrainingError
from vestige.study.execute import Listener, _Schedule
from vestige.study.plan import Unit


class Doing:
    """Every unit is done at once, but for one that fails."""

    def __init__(self, failing, error):
        self.failing, self.error, self.begun = failing, error, []

    def begin(self, unit):
        self.begun.append(unit)
        ended = Future()
        if unit == self.failing:
            ended.set_exception(self.error)
        else:
            ended.set_result("done")
        return ended


def test_what_needs_a_table_of_a_run_that_failed_fails_with_it():
    """A sham whose target diverged has no table to match; it is not begun, and the cause is the target's."""
    laid = plan({"early": EARLY, "sham": SHAM})
    failed = Unit("early", 0)
    error = TrainingError("training 'early'", found="the loss is nan", remedy="Lower recipe.lr")
    doing = Doing(failed, error)
    errors = _Schedule(laid, list(laid.units), doing, 2, Listener()).run()
    assert errors == {failed: error, Unit("sham", 0): error}
    assert {unit.condition for unit in doing.begun if unit != failed} == {"baseline"}
    assert {unit for unit in laid.units if unit.condition == "baseline"} <= set(doing.begun)
