"""Training by questions: from patients, events or tokens to a run, and a script that repeats it."""
