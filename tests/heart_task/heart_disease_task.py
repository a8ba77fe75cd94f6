"""Coronary disease at four hospitals (Detrano et al. 1989): a task that a third party adds without touching the framework.

Vessels seen by fluoroscopy, thallium scan and ST slope are left out: three of the four hospitals hardly recorded them.
"""

from tasks.base import Column, Contract, Label, Refusal
from tasks.tabular import TabularTask

CONTRACT = Contract(
    task="heart_disease",
    version="1",
    columns=(
        Column("age_years", "numeric", "age", unit="years", low=18, high=100, nullable=False),
        Column("male", "binary", "sex is male", nullable=False),
        Column(
            "chest_pain", "categorical", "kind of chest pain",
            categories=("typical", "atypical", "non_anginal", "asymptomatic"),
        ),
        Column("systolic_pressure", "numeric", "resting systolic pressure", unit="mm Hg", low=60, high=260),
        Column("cholesterol", "numeric", "serum cholesterol", unit="mg/dl", low=50, high=700),
        Column("fasting_sugar_high", "binary", "fasting blood sugar above 120 mg/dl"),
        Column("resting_ecg", "categorical", "resting ECG", categories=("normal", "st_t", "hypertrophy")),
        Column("max_heart_rate", "numeric", "highest heart rate on exercise", unit="beats/min", low=40, high=230),
        Column("exercise_angina", "binary", "angina on exercise"),
        Column("st_depression", "numeric", "ST depression on exercise", unit="mm", low=-5, high=10),
    ),
    label=Label("disease", "a coronary artery narrowed by more than half"),
    refused=(Refusal(r"angiograph|\bcath", "angiography is how the outcome was determined"),),
)  # fmt: skip

TASK = TabularTask(CONTRACT)
