"""Patients' gradients, clipped and summed exactly: nobody's contribution is longer than the bound or depends on anybody else."""

from client.engines.batch import PatientBatch, Shape, of_records, of_rows
from client.engines.choose import NAMES, Engine, choose_engine, sum_of, to_grid
from client.engines.errors import Unsupported

__all__ = ["NAMES", "Engine", "PatientBatch", "Shape", "Unsupported", "choose_engine", "of_records", "of_rows", "sum_of", "to_grid"]
