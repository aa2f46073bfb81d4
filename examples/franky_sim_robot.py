"""A simulated FR3 with a hand, which runs until Ctrl-C and is controlled like a real one.

It speaks the network protocol of Franka's own controller, at the given address:

    pip install -e '.[franka-sim,sim]'    # from a checkout
    python examples/franky_sim_robot.py 127.0.0.1
"""

import argparse
import contextlib
import signal

from rpl_runtime.robots.franka.sim import simulated_robot


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a Franka robot until Ctrl-C.")
    parser.add_argument("host", nargs="?", default="127.0.0.1", help="an address of this machine")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt), simulated_robot(arguments.host) as host:
        print(f"a simulated FR3 with a hand answers at {host}; Ctrl-C ends it", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
