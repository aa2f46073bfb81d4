"""Run loops: in lockstep for simulators, in real time for arms."""
