"""From what a hospital has to the tables of the data contract: native files by a mapping, OMOP CDM, FHIR R4."""
