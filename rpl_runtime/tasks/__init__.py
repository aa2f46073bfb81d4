"""Tasks: the goals of a policy, and the world in which it reaches them."""

from rpl_runtime.tasks.load import load_task
from rpl_runtime.tasks.pictures import Frame, Renderer
from rpl_runtime.tasks.scripted import Scripted
from rpl_runtime.tasks.task import DRAWN, Performance, Sight, Task, World

__all__ = ["DRAWN", "Frame", "Performance", "Renderer", "Scripted", "Sight", "Task", "World", "load_task"]
