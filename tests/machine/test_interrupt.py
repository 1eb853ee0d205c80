"""Progress and cancel, which reach long work through a context instead of parameters."""

import pytest

from lgm.machine.interrupt import between_steps, report, subtask, working


def test_an_inner_step_has_its_share_of_the_work_around_it():
    told = []
    with working(progress=told.append):
        with subtask(0.0, 0.5):
            report(0.5)
            with subtask(0.5, 1.0):
                report(0.0)
                report(1.0)
        report(0.75)
    assert told == [0.25, 0.25, 0.5, 0.75]


def test_what_is_not_given_stays_as_it_was_around():
    asked, told = [], []
    with working(lambda: asked.append("outer"), lambda part: told.append(("outer", part))):
        with working(lambda: asked.append("inner")):
            between_steps()
            report(0.5)
        with working(progress=lambda part: told.append(("inner", part))):
            between_steps()
            report(1.0)
        between_steps()
    assert asked == ["inner", "outer", "outer"]
    assert told == [("outer", 0.5), ("inner", 1.0)]


def test_work_that_was_stopped_leaves_nothing_behind():
    def stop():
        raise InterruptedError

    with pytest.raises(InterruptedError), working(stop, lambda part: stop()), subtask(0.0, 0.5):
        between_steps()
    between_steps()
    report(0.5)
