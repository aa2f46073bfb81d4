"""The state estimator between a robot's sensors and the policy: no I/O, no clock, any task."""
