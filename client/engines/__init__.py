"""Patients' gradients, clipped and summed exactly: nobody's contribution is longer than the bound or depends on anybody else."""

from client.engines.batch import SLOTS, Loss, Parameters, PatientBatch, Patients, Shape, of_owners, of_records, of_rows
from client.engines.choose import NAMES, PATIENTS_AT_ONCE, Engine, choose_engine, gradients_as_inputs, like, sum_of, to_grid
from client.engines.errors import Unsupported
from client.engines.plain import plain_sum

__all__ = [
    "NAMES",
    "PATIENTS_AT_ONCE",
    "SLOTS",
    "Engine",
    "Loss",
    "Parameters",
    "PatientBatch",
    "Patients",
    "Shape",
    "Unsupported",
    "choose_engine",
    "gradients_as_inputs",
    "like",
    "of_owners",
    "of_records",
    "of_rows",
    "plain_sum",
    "sum_of",
    "to_grid",
]
