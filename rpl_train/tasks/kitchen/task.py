"""The kitchen as a task, with what training adds: fast worlds, the scripted demonstrator, and recordings of others."""

from dataclasses import replace

from rpl_runtime.robots.kitchen.task import KITCHEN as PLAIN
from rpl_runtime.tasks.task import Task, World
from rpl_train.tasks.kitchen.play import KitchenPlay
from rpl_train.tasks.kitchen.recordings import read


def _fast() -> World:
    from rpl_train.tasks.kitchen.fast import FastKitchen  # needs the simulator

    return FastKitchen()


KITCHEN = replace(PLAIN, open_fast=_fast, demonstrator=KitchenPlay(), read=read)


def make() -> Task:
    """The factory for `--task`."""
    return KITCHEN
