"""Diagnosis: the way to a destination walked step by step, with what is wrong, what to do and whom to call.

Steps are values that come as they are done, so that a terminal or a page shows them live. It disturbs nothing: one
association or request, no patient data, no secret in any text, and every step has an end.
"""

from edge.doctor.problems import PROBLEMS, Problem, Who, problem
from edge.doctor.step import Result, Step
from edge.doctor.tables import examine, examine_box, examine_broker
from edge.doctor.words import TITLES

__all__ = [
    "PROBLEMS",
    "TITLES",
    "Problem",
    "Result",
    "Step",
    "Who",
    "examine",
    "examine_box",
    "examine_broker",
    "problem",
]
