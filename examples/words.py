"""A planner from words: an order such as "open the microwave, then put the kettle on the back burner".

A small grammar turns the order into elements of the kitchen, one after the other. The planner asks the bundle's high
level for a subgoal toward the first of them that is not done, with those before it. No language model is needed, and
nothing is downloaded.

    python examples/words.py models/kitchen "open the microwave, then put the kettle on the back burner"
    rpl serve models/kitchen --planner 127.0.0.1:50061
    rpl run --goal microwave,kettle

    order   = ["please"] clause {("," | "and" | "then" | "after that" | ";" | ".") clause}
            | "after" doing "," order | "before" doing "," order
            | order "before" doing | order "after" doing
    clause  = ["first" | "finally" | ...] [verb] thing {"and" thing} [where]
    thing   = ["the" | "both" | ...] words that name one or several elements

A clause without a verb has that of the clause before. An order is refused in one sentence if it names what the policy
does not have, asks for what no element is, or can be read in two ways.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np

from rpl_runtime.errors import InvalidGoal
from rpl_runtime.planning.planner import HighLevel
from rpl_runtime.planning.serve import serve_planner
from rpl_runtime.policy.bundle import load_bundle
from rpl_runtime.policy.graphs import OnnxPolicy
from rpl_runtime.policy.spec import PolicySpec
from rpl_runtime.policy.trial import open_policy
from rpl_runtime.relay.plans import Plan, Question


class Thing(NamedTuple):
    """What words name, and what can be done with it."""

    names: str  # regular expression
    verbs: str  # of the elements' goal
    elements: tuple[str, ...]


_OPEN, _ON, _PUT = "open|pull open", "turn on|switch on|light|ignite", "put|place|set|move|bring|push|carry"
_BURNER = "burner|hob|stove|plate|ring"
KETTLE = Thing(r"(tea ?)?kettle|pot", _PUT, ("kettle",))
THINGS = (
    Thing(r"(microwave|oven)( oven)?( door)?", _OPEN, ("microwave",)),
    KETTLE,
    Thing(rf"(bottom|lower|front) ({_BURNER})( knob)?", _ON, ("bottom burner",)),
    Thing(rf"(top|upper|back|rear) ({_BURNER})( knob)?", _ON, ("top burner",)),
    Thing(rf"(both |two )?({_BURNER})s", _ON, ("bottom burner", "top burner")),
    Thing(r"(light|lamp)s?( switch)?", "turn on|switch on|flip|flick", ("light switch",)),
    Thing(r"(slide|sliding) (cabinet|cupboard|door)( door)?", rf"{_OPEN}|slide open|slide", ("slide cabinet",)),
    Thing(r"(hinge|hinged) (cabinet|cupboard|door)( door)?", f"{_OPEN}|swing open", ("hinge cabinet",)),
    Thing(r"(both |two )?(cabinet|cupboard)s", _OPEN, ("slide cabinet", "hinge cabinet")),
)
_VERBS = "|".join(sorted({verb for thing in THINGS for verb in thing.verbs.split("|")}, key=len, reverse=True))
_WHERE = rf"((?:on|onto|on to|to|over to) (?:top|upper|back|rear)(?: left)?(?: (?:{_BURNER}))?)"  # of a kettle
_TWO_WAYS = {
    r"cabinet|cupboard|cabinet door|cupboard door": "the slide cabinet or the hinge cabinet",
    rf"({_BURNER})|knob": "the bottom burner or the top burner",
    r"door": "the microwave, the slide cabinet or the hinge cabinet",
}
_FILLING = (
    r"please|kindly|now|just|also|first|firstly|second|secondly|third|next|finally|lastly|go and|could you|can you"
)
_FILLING += (
    r"|would you|i want you to|i would like you to|you should|you must|for me|at last|afterwards|everything else"
)
_SPLIT = r"\s*(?:[,;.]|\band then\b|\bthen\b|\bafter that\b|\bafterwards\b|\band\b)\s*"
_REFUSED = {
    r"\b(not|never|don't|dont|without|except|unless|avoid|no)\b": "it forbids something; must say what to do",
    r"\b(if|when|whenever|until|while|in case)\b": "it depends on a condition; must say what to do now",
    r"\bor\b": "it leaves a choice; must say one thing",
    r"\b(twice|again|times|repeat)\b": "it asks for a repetition; must name each thing once",
    r"\?|\b(what|where|why|how|who|which)\b": "it is a question; must be an order",
}
_UNDO = r"\b(close|shut|turn off|switch off|put out|off|remove|take|lift|empty|unplug|break)\b"


def elements_of(order: str, spec: PolicySpec) -> tuple[str, ...]:
    """The elements of an order in words, in the sequence in which they are to be done.

    Raises:
        InvalidGoal: the order cannot be followed; the message says why.
    """
    text = re.sub(r"\s+", " ", order.lower().replace("’", "'")).strip(" .!,;")
    text = re.sub(r"^(could|can|would) you\b(.*?)\?$", r"\2", text.strip())  # a polite order
    try:
        if not text:
            raise ValueError("it is empty; must name at least one thing to do")
        for pattern, why in _REFUSED.items():
            if re.search(pattern, text):
                raise ValueError(why)
        found = tuple(_in_sequence(text))
        if not found:
            raise ValueError("it names nothing to do; must name at least one thing")
        for at, element in enumerate(found):
            if element in found[:at]:
                raise ValueError(f"it names the {element} twice; must name each thing once")
            if element not in spec.elements:
                raise ValueError(f"{spec.name} has no {element}; it has {', '.join(spec.elements) or 'no elements'}")
    except ValueError as error:
        raise InvalidGoal(f"the order {order[:200]!r} is refused: {error}") from None
    return found


def _in_sequence(text: str) -> Iterator[str]:
    """The elements of an order, of which "before" and "after" turn the parts round."""
    for word, turned in (("before", False), ("after", True)):
        if word == "after" and re.search(r"\bafter that\b", text):
            text = re.sub(r"\bafter that\b", "then", text)
        if match := re.match(rf"^{word} (.+?),\s*(.+)$", text):
            doing, order = match.groups()
            parts = (doing, order) if word == "after" else (order, doing)
        elif match := re.match(rf"^(.+?),? {word} (.+)$", text):
            order, doing = match.groups()
            parts = (doing, order) if turned else (order, doing)
        else:
            continue
        for part in parts:
            yield from _in_sequence(part)
        return
    verb = ""
    for clause in re.split(_SPLIT, text):
        clause = re.sub(rf"\b({_FILLING})\b", " ", clause)
        clause = re.sub(r"\s+", " ", clause).strip()
        if clause:
            verb, elements = _clause(clause, verb)
            yield from elements


def _clause(clause: str, verb: str) -> tuple[str, tuple[str, ...]]:
    """The verb of a clause, or that of the clause before, and the elements that it names."""
    if re.search(_UNDO, clause):
        raise ValueError(f"{clause!r} undoes something; elements can be opened, turned on or put in place")
    plain = re.sub(r"\b(the|a|an|my|our|that|this|you)\b", " ", clause)
    plain = re.sub(r"\b(open|turn|switch|putt|plac|sett|mov|bring|slid|push)ing\b", _base, plain)
    plain = re.sub(r"\s+", " ", plain).strip()
    plain = re.sub(r"^(turn|switch) (.+) on$", r"\1 on \2", plain)
    plain = re.sub(r"^(pull|slide|swing) (.+) open$", r"\1 open \2", plain)
    said, thing, where = verb, plain, ""
    alone = any(re.fullmatch(kind.names, plain) for kind in THINGS)
    if not alone and (match := re.match(rf"^({_VERBS}) (.+)$", plain)):
        said, thing = match.groups()
    if match := re.match(rf"^(.+?) {_WHERE}$", thing):
        thing, where = match[1], match[2]
    if re.match(rf"({KETTLE.names}) ", thing):
        raise ValueError(f"{clause!r} names what is not a place of the kettle; it can be put on the back burner")
    for kind in THINGS:
        if re.fullmatch(kind.names, thing):
            break
        if match := re.fullmatch(rf"(.+) (?:{kind.names})", thing):
            said = match[1]  # a verb that no element has
            break
    else:
        for pattern, ways in _TWO_WAYS.items():
            if re.fullmatch(pattern, thing):
                raise ValueError(f"{clause!r} can be read in two ways; must name {ways}")
        known = ", ".join(sorted({element for kind in THINGS for element in kind.elements}))
        raise ValueError(f"{clause!r} names nothing that is known; must be one of {known}")
    if not re.fullmatch(kind.verbs, said):
        must = kind.verbs.split("|")[0]
        raise ValueError(f"{clause!r} asks to {said or 'do nothing with'} the {kind.elements[0]}; must be to {must} it")
    if bool(where) != (kind is KETTLE):
        raise ValueError(f"{clause!r} names {'a' if where else 'no'} place; only the kettle goes to the back burner")
    return said, kind.elements


def _base(match: re.Match[str]) -> str:
    stem = match[1]
    return {"putt": "put", "plac": "place", "sett": "set", "mov": "move", "slid": "slide"}.get(stem, stem)


class WordsPlanner:
    """Plans for the first element of an order that is not done."""

    def __init__(self, policy: OnnxPolicy, order: str) -> None:
        self.elements = elements_of(order, policy.spec)
        self._spec = policy.spec
        self._high = HighLevel(policy)

    def plan(self, question: Question, deadline_s: float) -> Plan:
        """A subgoal toward the next element.

        Raises:
            InvalidGoal: the run has another goal than the order.
        """
        spec = self._spec
        missing = [name for name in self.elements if not question.goal.mask[list(spec.elements[name].dims)].all()]
        if missing:
            raise InvalidGoal(f"the run's goal lacks {missing[0]}, which the order names; must name {self.elements}")
        goal = spec.resolve(self.next_elements(question.state), question.state)
        plan = self._high.plan(question._replace(goal=goal), deadline_s)
        return plan._replace(subgoal=np.clip(plan.subgoal, *spec.state.bounds))

    def next_elements(self, state: np.ndarray) -> Sequence[str]:
        """The elements to plan for in a state (n,): up to the first that is not done, so that none before is undone."""
        done = self._spec.done(state)
        undone = next((at for at, name in enumerate(self.elements) if name not in done), len(self.elements) - 1)
        return self.elements[: undone + 1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a planner that follows an order in words.")
    parser.add_argument("bundle", type=Path, help="whose high level makes the subgoals")
    parser.add_argument("order", help="what to do, in words")
    parser.add_argument("--address", default="127.0.0.1:50061", help="HOST:PORT to listen on")
    arguments = parser.parse_args()
    policy = open_policy(load_bundle(arguments.bundle))
    try:
        planner = WordsPlanner(policy, arguments.order)
    except InvalidGoal as error:
        raise SystemExit(str(error)) from None
    with serve_planner(planner, "words", policy.spec, arguments.address) as address:
        print(f"{', then '.join(planner.elements)}: rpl.v1.Planner at {address}", flush=True)
        Event().wait()


if __name__ == "__main__":
    main()
