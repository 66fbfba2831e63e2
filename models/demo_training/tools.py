"""Functions to declare and requests that call them: a few everyday ones and many invented ones."""

import json
import random
from dataclasses import dataclass

from .harmony import Tool
from .lexicon import Lexicon

VERBS = "get set find add remove update create delete list check start stop open close count send book order save load run show".split()
NOUNS = "user order task note file room event invoice ticket report song recipe device account city product car job message price".split()
KEYS = "name title id color size amount date level mode label tag owner city status priority weight key path country topic query number code".split()
STRING, NUMBER = "string", "number"


@dataclass
class Request:
    """A function, the argument that a user wants, and the sentence that asks for it."""

    tool: Tool
    arguments: dict
    question: str

    def arguments_json(self) -> str:
        """Arguments as the model writes them."""
        return json.dumps(self.arguments, separators=(",", ":"), ensure_ascii=False)


def requests(rng: random.Random, lexicon: Lexicon, number: int) -> list[Request]:
    """Requests for different functions, no two of them for the same purpose: which one fits is never a guess."""
    everyday = rng.sample([_weather, _weather, _stock, _timer, _lookup, _search], number)
    makers = dict.fromkeys(maker if rng.random() < 0.6 else _invented for maker in everyday)
    found = [maker(rng, lexicon) for maker in makers]
    return found if len({wanted.tool.name for wanted in found}) == len(found) else found[:1]


def _maybe(rng, text: str) -> str:
    return text if rng.random() < 0.6 else ""


def _comments(rng, **texts) -> dict:
    return {key: text for key, text in texts.items() if rng.random() < 0.4}


def _weather(rng, lexicon) -> Request:
    key = rng.choice(["location", "city", "city", "place"])
    name = rng.choice(["get_weather", "get_weather", "get_current_weather", "weather", "fetch_weather"])
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
    key = rng.choice(["symbol", "ticker"])
    symbol = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(3, 4)))
    tool = Tool(rng.choice(["get_stock_price", "stock_price", "lookup_stock"]), {key: STRING}, _maybe(rng, "Get the price of a stock."))
    question = rng.choice(["What is the price of {s}?", "What is the stock price of {s}?", "Get the stock price of {s}."])
    return Request(tool, {key: symbol}, question.format(s=symbol))


def _timer(rng, lexicon) -> Request:
    key, minutes = rng.choice(["minutes", "duration"]), rng.randint(1, 90)
    tool = Tool(rng.choice(["set_timer", "start_timer", "timer"]), {key: NUMBER}, _maybe(rng, "Starts a timer."))
    question = rng.choice(["Set a timer for {m} minutes.", "Start a timer for {m} minutes.", "Timer for {m} minutes, please."])
    return Request(tool, {key: minutes}, question.format(m=minutes))


def _lookup(rng, lexicon) -> Request:
    noun = rng.choice(["user", "order", "product", "customer", "ticket"])
    key, number = rng.choice(["id", f"{noun}_id"]), rng.randint(1, 9999)
    tool = Tool(rng.choice([f"get_{noun}", f"find_{noun}", f"lookup_{noun}"]), {key: NUMBER}, _maybe(rng, f"Finds one {noun} by its id."))
    question = rng.choice(["Find the {n} with id {i}.", "Look up {n} {i}.", "Show me {n} {i}.", "Get {n} {i}."])
    return Request(tool, {key: number}, question.format(n=noun, i=number))


def _search(rng, lexicon) -> Request:
    key, text = rng.choice(["query", "q", "text"]), lexicon.phrase(rng, 2)
    tool = Tool(rng.choice(["search", "web_search", "search_web", "find_pages"]), {key: STRING}, _maybe(rng, "Searches the web."))
    question = rng.choice(["Search for {t}", "Search the web for {t}", "Look up {t}", "Find pages about {t}"])
    return Request(tool, {key: text}, question.format(t=text))


def _invented(rng, lexicon) -> Request:
    name, key = _invented_name(rng, lexicon), rng.choice(KEYS) if rng.random() < 0.7 else lexicon.nonsense(rng)
    value, kind = (lexicon.phrase(rng, 2), STRING) if rng.random() < 0.7 else (rng.randint(0, 999), NUMBER)
    about = rng.choice([f"Runs {name.replace('_', ' ')}.", "A helper function.", "Does the work."])
    tool = Tool(name, {key: kind}, about if rng.random() < 0.4 else "", _comments(rng, **{key: f"The {key}"}))
    return Request(tool, {key: value}, _question(rng, name, key, value))


def _invented_name(rng, lexicon) -> str:
    if rng.random() < 0.6:
        return f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"
    return f"{rng.choice([rng.choice(VERBS), lexicon.nonsense(rng)])}_{lexicon.nonsense(rng)}"


def _question(rng, name: str, key: str, value) -> str:
    verb, noun = name.split("_")
    return rng.choice([
        f"Call {name} with {key} {value}", f"Use {name} with {value}.", f"{name}: {value}", f"Please call {name} for {value}.",
        f"Call {name} with {key} = {value}", f"Run {name} with {value}", f"{verb.capitalize()} the {noun} {value}.",
        f"{verb.capitalize()} {noun} with {key} {value}",
    ])
