"""From other forms of health records to MEDS: MIMIC-IV, OMOP CDM, tables of events, patients in JSON."""
