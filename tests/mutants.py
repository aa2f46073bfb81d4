"""Mutation testing: damage one place of a module at a time and see whether the tests that hold the module fail.

`make mutants` works on a seeded sample of every module below and goes on where it was stopped: a mutant that died
counts as dead until its module changes, one that survived is tried again when the tests change. The mutants are those
of mutmut; the ones that differ from the module in strings or annotations alone are left out. Survivors that no test
could tell from the original stand in equivalent_mutants.toml, each with the reason.
"""

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypedDict

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "data" / "mutants.json"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
SAMPLE = 100
SEED = 13

# Each module with what pytest runs to hold it: what fails first is listed first.
MODULES = {
    "rpl_train/relabel.py": ["tests/train/test_relabel.py"],
    "rpl_train/tuples.py": ["tests/train/test_tuples.py", "tests/train/test_augment.py"],
    "rpl_train/augment.py": ["tests/train/test_augment.py", "tests/train/test_tuples.py"],
    "rpl_train/imitate.py": ["tests/train/test_imitate.py"],
    "rpl_train/rl/npg.py": ["tests/train/rl/test_npg.py"],
    "rpl_train/rl/finetune.py": ["tests/train/rl/test_finetune.py"],
    "rpl_train/distill.py": ["tests/train/test_distill.py"],
    "rpl_runtime/relay/loop.py": ["tests/runtime/relay"],
    "rpl_runtime/safety/filter.py": ["tests/runtime/safety"],
    "rpl_runtime/wire/control.py": ["tests/runtime/wire"],
    "rpl_runtime/wire/columns.py": ["tests/runtime/wire"],
    "rpl_runtime/wire/packed.py": ["tests/runtime/wire"],
}
# Imported once, before the fork for each mutant: slow to import, and started by no thread of their own.
HEAVY = ("numpy", "torch", "grpc", "onnxruntime", "mujoco", "pydantic", "hypothesis", "hypothesis.extra.numpy", "onnx")


@dataclass(frozen=True)
class Mutant:
    number: int  # its place among all mutants of the module
    function: str
    diff: list[str]  # the lines taken away ("- ...") and put in their place ("+ ...")
    source: Callable[[], str]  # the module's


class Survivor(TypedDict):
    number: int
    function: str
    diff: list[str]
    tests: str  # digest of the tests that it survived
    equivalent: str | None  # why no test could tell it from the original, where that was found out


@dataclass
class Record:
    """What is known about one module: its entry in the JSON."""

    source: str  # digest of the module
    mutants: int  # in all
    sampled: int
    tried: int = 0  # of the sample, in its order; those that did not survive died
    survived: list[Survivor] = field(default_factory=list)

    def row(self, module: str) -> str:
        equivalent = sum(one["equivalent"] is not None for one in self.survived)
        died = self.tried - len(self.survived)
        share = 100 * died / max(self.tried - equivalent, 1)
        numbers = self.mutants, self.tried, died, len(self.survived), equivalent
        return f"| {module} | {' | '.join(map(str, numbers))} | {share:.0f} % |"


def mutants_of(module: str) -> list[Mutant]:
    """Every mutant of a module but those that differ from it in strings or annotations alone, in order."""
    from libcst import FunctionDef
    from mutmut.mutation.file_mutation import create_mutations

    parsed, mutations, *_ = create_mutations(module, (ROOT / module).read_text())
    found = []
    for mutation in mutations:
        function, replaced = mutation.contained_by_top_level_function, (mutation.original_node, mutation.mutated_node)
        if not isinstance(function, FunctionDef):  # a class's fields
            continue
        was, now = (parsed.code_for_node(node) for node in (function, function.deep_replace(*replaced)))
        (bare, strings), (mutated, there) = _bare(was), _bare(now)
        if mutated == bare and there <= strings:
            continue
        changed = list(difflib.unified_diff(was.splitlines(), now.splitlines(), n=0, lineterm=""))[2:]
        diff = [f"{line[0]} {line[1:].strip()}" for line in changed if line[0] in "+-"]
        source = partial(lambda *nodes: parsed.deep_replace(*nodes).code, *replaced)
        found.append(Mutant(len(found), function.name.value, diff, source))
    return found


def _bare(text: str) -> tuple[str, int]:
    """The syntax of code with None in place of strings and annotations, and its number of strings."""
    count = 0

    class Strip(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            nonlocal count
            count += isinstance(node.value, str)
            return ast.Constant(None) if isinstance(node.value, str) else node

        def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
            nonlocal count
            count += 1
            return ast.Constant(None)

        def generic_visit(self, node: ast.AST) -> ast.AST:
            for name in ("annotation", "returns"):
                if getattr(node, name, None) is not None:
                    setattr(node, name, ast.Constant(None))
            return super().generic_visit(node)

    return ast.dump(Strip().visit(ast.parse(text))), count


class Order:
    """Run the tests that killed before first, and tell which test kills."""

    def __init__(self, kills: dict[str, int], tell: int) -> None:
        self._kills = kills
        self._tell = tell

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: -self._kills.get(item.nodeid, 0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os.write(self._tell, report.nodeid.encode())


class Trial:
    """A copy of the project in which one module at a time is damaged and tested, in a process forked for it."""

    def __init__(self, folder: Path) -> None:
        self._tree = tree = folder / "tree"
        self._output = folder / "output.txt"
        sys.pycache_prefix = str(folder / "bytecode")
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        for name in HEAVY:
            importlib.import_module(name)

    @contextlib.contextmanager
    def damaged(self, module: str, source: str) -> Iterator[None]:
        path = self._tree / module
        original = path.read_text()
        try:
            self._put(path, source)
            yield
        finally:
            self._put(path, original)

    def _put(self, path: Path, source: str) -> None:
        path.write_text(source)
        # Its size and its second of writing may be those of the bytecode that was made of another mutant.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def output(self) -> str:
        """What the latest tests printed."""
        return self._output.read_text()

    def passes(self, arguments: Sequence[str], kills: dict[str, int], limit_s: float) -> bool:
        """Whether the tests pass within a time [s]; a test that fails is counted in `kills`."""
        heard, tell = os.pipe()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.close(heard)
                code = self._test(arguments, Order(kills, tell))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(tell)
        told = b""
        ends = time.monotonic() + limit_s
        try:
            with os.fdopen(heard, "rb", buffering=0) as pipe:
                while select.select([pipe], [], [], max(ends - time.monotonic(), 0.0))[0] and (part := pipe.read(4096)):
                    told += part
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # a mutant that hangs, and whatever its tests left running
            _, status = os.waitpid(child, 0)
        if told:
            kills[told.decode()] = kills.get(told.decode(), 0) + 1
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) == pytest.ExitCode.OK

    def _test(self, arguments: Sequence[str], order: Order) -> int:
        os.setpgid(0, 0)
        output = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.chdir(self._tree)
        paths = [str(self._tree), str(self._tree / "tests")]
        sys.path[:0] = paths
        sys.argv = ["pytest"]
        os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONPYCACHEPREFIX": str(sys.pycache_prefix)}
        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=unshrunk", "--hypothesis-seed=0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported before the fork
        return pytest.main([*options, *arguments], plugins=[order])


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def examine(module: str, records: dict[str, Record], trial: Trial) -> None:
    """Try the sample of one module, keeping each result as it comes."""
    found = mutants_of(module)
    sample = random.Random(f"{SEED} {module}").sample(found, min(SAMPLE, len(found)))
    # Another wording, of a docstring or a message, leaves the mutants as they are.
    source = hashlib.sha256(_bare((ROOT / module).read_text())[0].encode()).hexdigest()[:16]
    if module not in records or records[module].source != source:
        records[module] = Record(source, len(found), len(sample))
    record = records[module]
    held_by = [ROOT / name for name in MODULES[module] if (ROOT / name).exists()]
    files = [file for path in held_by for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    tests = digest(*files)
    again = [one for one in record.survived if one["tests"] != tests]
    if not again and record.tried == len(sample):
        return
    kills: dict[str, int] = {}
    started = time.monotonic()
    if not trial.passes(MODULES[module], kills, 600):
        raise SystemExit(f"{trial.output()}\nthe tests of {module} fail without any damage; must pass")
    limit_s = 3 * (time.monotonic() - started) + 30

    def survives(mutant: Mutant) -> bool:
        with trial.damaged(module, mutant.source()):
            survived = trial.passes(MODULES[module], kills, limit_s)
        if survived:
            print(f"{module}, {mutant.function}:", *mutant.diff, sep="\n  ", flush=True)
        return survived

    for survivor in again:
        if survives(found[survivor["number"]]):
            survivor["tests"] = tests
        else:
            record.survived.remove(survivor)
        write(records)
    for mutant in sample[record.tried :]:
        if survives(mutant):
            record.survived.append(
                Survivor(number=mutant.number, function=mutant.function, diff=mutant.diff, tests=tests, equivalent=None)
            )
        record.tried += 1
        write(records)


def write(records: dict[str, Record]) -> None:
    """Write the records, with the reason beside each survivor that was judged equivalent."""
    judged = {
        (one["module"], one["function"], *one["diff"]): one["why"]
        for one in tomllib.loads(EQUIVALENT.read_text())["mutant"]
    }
    for module, record in records.items():
        record.survived.sort(key=lambda one: one["number"])
        for one in record.survived:
            one["equivalent"] = judged.get((module, one["function"], *one["diff"]))
    modules = {module: asdict(records[module]) for module in MODULES if module in records}
    staged = RESULTS.with_suffix(".new")
    staged.write_text(json.dumps({"seed": SEED, "sample": SAMPLE, "modules": modules}, indent=1) + "\n")
    staged.replace(RESULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description="See which damages to a module its tests notice.")
    parser.add_argument("modules", nargs="*", default=list(MODULES), help="paths, all by default")
    modules = parser.parse_args().modules
    records: dict[str, Record] = {}
    if RESULTS.exists():
        records = {name: Record(**one) for name, one in json.loads(RESULTS.read_text())["modules"].items()}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and clean up
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trial = Trial(Path(folder))
        for module in modules:
            examine(module, records, trial)
    write(records)
    print("| module | mutants | tried | died | survived | of these equivalent | died of the rest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    print(*(record.row(module) for module, record in records.items()), sep="\n")


if __name__ == "__main__":
    main()
