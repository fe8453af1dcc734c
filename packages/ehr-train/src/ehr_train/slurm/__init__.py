"""Job scripts for Slurm, written and not simulated."""
