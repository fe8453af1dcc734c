"""What is predicted, when, and for whom: one small function a task, by name in `registry`."""
