"""Many runs of `ehr-train` in search of the best settings: by Optuna here, or by agents of W&B."""
