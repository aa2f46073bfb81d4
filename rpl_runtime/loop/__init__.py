"""Run loops: lockstep for simulators that wait, real time for arms that do not."""
