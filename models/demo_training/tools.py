"""Functions to declare and requests that call them: a few everyday ones and many invented ones."""

import json
import random
from dataclasses import dataclass

from .harmony import Tool
from .lexicon import Lexicon

FINDERS = "get find lookup fetch show read load query".split()
VERBS = "get set find add remove update create delete list check start stop open close count send book order save load run show".split()
NOUNS = "user order task note file room event invoice ticket report song recipe device account city product car job message price".split()
KEYS = "name title id color size amount date level mode label tag owner city status priority weight key path country topic query number code".split()
EVERYDAY = "weather current customer stock price timer search web pages location place symbol ticker minutes duration id q query text".split()
KNOWN = frozenset(FINDERS + VERBS + NOUNS + KEYS + EVERYDAY)
STRING, NUMBER = "string", "number"


@dataclass
class Request:
    """A function, the argument that a user wants, and the sentence that asks for it."""

    tool: Tool
    arguments: dict
    question: str

    def is_familiar(self) -> bool:
        """Whether no word of the function's name and of its argument's name is made up."""
        names = [self.tool.name, *self.arguments]
        return all(word in KNOWN for name in names for word in name.split("_"))

    def arguments_json(self) -> str:
        """Arguments as the model writes them."""
        return json.dumps(self.arguments, separators=(",", ":"), ensure_ascii=False)


def requests(rng: random.Random, lexicon: Lexicon, number: int) -> list[Request]:
    """Requests for different functions: some names differ in one word only, but which function fits is never a guess."""
    everyday = rng.sample([_weather, _weather, _stock, _timer, _lookup, _search], number)
    makers = dict.fromkeys(maker if rng.random() < 0.6 else _invented for maker in everyday)
    found = [maker(rng, lexicon) for maker in makers]
    if _invented in makers and rng.random() < 0.5:
        similar = list(makers).index(_invented)
        found.insert(0, found.pop(similar))
        found.insert(1, _invented(rng, lexicon, found[0].tool.name.split("_")))
    return found if len({wanted.tool.name for wanted in found}) == len(found) else found[:1]


def _variant(rng, lexicon, usual: list[str], noun: str) -> str:
    """A usual name or one with an unusual verb: the name has to be read in the declaration."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(usual)
    return f"{rng.choice(FINDERS) if kind < 0.85 else lexicon.nonsense(rng)}_{noun}"


def _key(rng, lexicon, usual: list[str]) -> str:
    kind = rng.random()
    return rng.choice(usual if kind < 0.7 else KEYS) if kind < 0.85 else lexicon.nonsense(rng)


def _maybe(rng, text: str) -> str:
    return text if rng.random() < 0.6 else ""


def _comments(rng, **texts) -> dict:
    return {key: text for key, text in texts.items() if rng.random() < 0.4}


def _weather(rng, lexicon) -> Request:
    key = _key(rng, lexicon, ["location", "city", "city", "place"])
    name = _variant(rng, lexicon, ["get_weather", "get_weather", "get_current_weather", "weather", "fetch_weather"], "weather")
    parameters, optional = {key: STRING}, frozenset()
    if rng.random() < 0.15:
        unit = rng.choice(["unit", "format"])
        parameters[unit] = '"celsius" | "fahrenheit"'
        optional = frozenset([unit])
    note = rng.choice(["City name", "The city", "The city and state, e.g. San Francisco, CA", "City and country e.g. Bogota, Colombia"])
    about = rng.choice(["Get the weather for a city.", "Get the current weather", "Get current temperature for a given location.", "Returns the weather.", "Gets the weather in a place."])
    city = lexicon.city(rng)
    question = rng.choice([
        "What is the weather in {c}?", "What is the weather like in {c}?", "What's the weather in {c}?",
        "What's the weather like in {c} today?", "How is the weather in {c} today?", "weather in {c}",
        "Tell me the weather in {c}.", "Weather in {c}?", "What is the weather like in {c} today?",
        "What is the temperature in {c}?", "Is it raining in {c}?", "How is the weather in {c}?",
    ]).format(c=city)
    return Request(Tool(name, parameters, _maybe(rng, about), _comments(rng, **{key: note}), optional), {key: city}, question)


def _stock(rng, lexicon) -> Request:
    key = _key(rng, lexicon, ["symbol", "ticker"])
    symbol = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(3, 4)))
    name = _variant(rng, lexicon, ["get_stock_price", "stock_price", "lookup_stock"], "stock")
    tool = Tool(name, {key: STRING}, _maybe(rng, "Get the price of a stock."))
    question = rng.choice(["What is the price of {s}?", "What is the stock price of {s}?", "Get the stock price of {s}."])
    return Request(tool, {key: symbol}, question.format(s=symbol))


def _timer(rng, lexicon) -> Request:
    key, minutes = _key(rng, lexicon, ["minutes", "duration"]), rng.randint(1, 90)
    tool = Tool(_variant(rng, lexicon, ["set_timer", "start_timer", "timer"], "timer"), {key: NUMBER}, _maybe(rng, "Starts a timer."))
    question = rng.choice(["Set a timer for {m} minutes.", "Start a timer for {m} minutes.", "Timer for {m} minutes, please."])
    return Request(tool, {key: minutes}, question.format(m=minutes))


def _lookup(rng, lexicon) -> Request:
    noun = rng.choice(["user", "order", "product", "customer", "ticket"])
    key, number = _key(rng, lexicon, ["id", f"{noun}_id"]), rng.randint(1, 9999)
    name = _variant(rng, lexicon, [f"get_{noun}", f"find_{noun}", f"lookup_{noun}"], noun)
    tool = Tool(name, {key: NUMBER}, _maybe(rng, f"Finds one {noun} by its id."))
    question = rng.choice(["Find the {n} with id {i}.", "Look up {n} {i}.", "Show me {n} {i}.", "Get {n} {i}."])
    return Request(tool, {key: number}, question.format(n=noun, i=number))


def _search(rng, lexicon) -> Request:
    key, text = _key(rng, lexicon, ["query", "q", "text"]), lexicon.phrase(rng, 2)
    tool = Tool(_variant(rng, lexicon, ["search", "web_search", "search_web", "find_pages"], "search"), {key: STRING}, _maybe(rng, "Searches the web."))
    question = rng.choice(["Search for {t}", "Search the web for {t}", "Look up {t}", "Find pages about {t}"])
    return Request(tool, {key: text}, question.format(t=text))


def _invented(rng, lexicon, alike: list[str] | None = None) -> Request:
    """A made-up function; with `alike`, verb and noun of another one, a name that shares one of the two."""
    name, key = _invented_name(rng, lexicon, alike), rng.choice(KEYS) if rng.random() < 0.7 else lexicon.nonsense(rng)
    value, kind = (lexicon.phrase(rng, 2), STRING) if rng.random() < 0.7 else (rng.randint(0, 999), NUMBER)
    about = rng.choice([f"Runs {name.replace('_', ' ')}.", "A helper function.", "Does the work."])
    tool = Tool(name, {key: kind}, about if rng.random() < 0.4 else "", _comments(rng, **{key: f"The {key}"}))
    return Request(tool, {key: value}, _question(rng, name, key, value))


def _invented_name(rng, lexicon, alike: list[str] | None) -> str:
    known = rng.random() < 0.6
    verb = rng.choice(VERBS) if known or rng.random() < 0.5 else lexicon.nonsense(rng)
    noun = rng.choice(NOUNS) if known else lexicon.nonsense(rng)
    if alike:
        verb, noun = rng.choice([(alike[0], noun), (verb, alike[1])])
    return f"{verb}_{noun}"


def _question(rng, name: str, key: str, value) -> str:
    verb, noun = name.split("_")
    return rng.choice([
        f"Call {name} with {key} {value}", f"Use {name} with {value}.", f"{name}: {value}", f"Please call {name} for {value}.",
        f"Call {name} with {key} = {value}", f"Run {name} with {value}", f"{verb.capitalize()} the {noun} {value}.",
        f"{verb.capitalize()} {noun} with {key} {value}",
    ])
