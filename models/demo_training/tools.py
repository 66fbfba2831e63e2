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
    """A function, the arguments that a user wants, and the sentence that asks for it."""

    tool: Tool
    arguments: dict
    question: str

    def arguments_json(self) -> str:
        """Arguments as the model writes them."""
        return json.dumps(self.arguments, separators=(",", ":"), ensure_ascii=False)


def request(rng: random.Random, lexicon: Lexicon, num_arguments: int) -> Request:
    """A request for a call with one or two arguments."""
    if num_arguments == 1:
        maker = rng.choice([_weather, _weather, _stock, _timer, _lookup, _search, _invented, _invented, _invented, _invented])
        return maker(rng, lexicon) if maker is not _invented else _invented(rng, lexicon, 1)
    maker = rng.choice([_email, _translate, _weather_with_unit, _light, _invented, _invented, _invented])
    return maker(rng, lexicon) if maker is not _invented else _invented(rng, lexicon, 2)


def another_tool(rng: random.Random, lexicon: Lexicon) -> Tool:
    """A function to stand beside the one that is called."""
    return request(rng, lexicon, rng.choice([1, 1, 2])).tool


def _maybe(rng, text: str) -> str:
    return text if rng.random() < 0.6 else ""


def _comments(rng, **texts) -> dict:
    return {key: text for key, text in texts.items() if rng.random() < 0.4}


def _weather(rng, lexicon) -> Request:
    key = rng.choice(["location", "city", "city", "place"])
    name = rng.choice(["get_weather", "get_weather", "get_current_weather", "weather", "fetch_weather"])
    parameters, optional = {key: STRING}, frozenset()
    if rng.random() < 0.25:
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


def _weather_with_unit(rng, lexicon) -> Request:
    key, unit = rng.choice(["location", "city"]), rng.choice(["unit", "format"])
    tool = Tool(rng.choice(["get_weather", "get_current_weather"]), {key: STRING, unit: '"celsius" | "fahrenheit"'}, _maybe(rng, "Get the weather for a city."))
    city, scale = lexicon.city(rng), rng.choice(["celsius", "fahrenheit"])
    question = rng.choice(["What is the weather in {c} in {u}?", "Tell me the weather in {c} in {u}.", "Weather in {c}, in {u}?"])
    return Request(tool, {key: city, unit: scale}, question.format(c=city, u=scale))


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


def _email(rng, lexicon) -> Request:
    to, body = rng.choice([("to", "body"), ("recipient", "text"), ("email", "message"), ("to", "message")])
    person = lexicon.name(rng)
    address = f"{person.lower()}@{rng.choice(['example.com', 'mail.org'])}" if rng.random() < 0.5 else person
    text = lexicon.phrase(rng, 2)
    tool = Tool(rng.choice(["send_email", "send_mail", "send_message"]), {to: STRING, body: STRING}, _maybe(rng, "Sends a message."))
    question = rng.choice(["Send an email to {a} saying {t}", "Send {a} the message {t}", "Write to {a}: {t}", "Email {a}: {t}"])
    return Request(tool, {to: address, body: text}, question.format(a=address, t=text))


def _translate(rng, lexicon) -> Request:
    key = rng.choice(["language", "target"])
    language, text = rng.choice(["French", "German", "Spanish", "Italian", "Japanese"]), lexicon.phrase(rng, 2)
    tool = Tool(rng.choice(["translate", "translate_text"]), {"text": STRING, key: STRING}, _maybe(rng, "Translates text."))
    question = rng.choice(["Translate {t} to {l}.", "Translate {t} into {l}."])
    return Request(tool, {"text": text, key: language}, question.format(t=text, l=language))


def _light(rng, lexicon) -> Request:
    room, state = rng.choice(["kitchen", "bedroom", "garage", "office", "hall", lexicon.nonsense(rng)]), rng.choice(["on", "off"])
    key, value = rng.choice(["room", "location"]), rng.choice(["state", "mode"])
    tool = Tool(rng.choice(["set_light", "switch_light", "light"]), {key: STRING, value: STRING}, _maybe(rng, "Turns a light on or off."))
    question = rng.choice(["Turn {s} the light in the {r}.", "Switch {s} the light in the {r}.", "Turn the {r} light {s}."])
    return Request(tool, {key: room, value: state}, question.format(s=state, r=room))


def _invented(rng, lexicon, num_arguments: int) -> Request:
    name = _invented_name(rng, lexicon)
    keys = rng.sample(KEYS, num_arguments)
    keys = [key if rng.random() < 0.7 else lexicon.nonsense(rng) for key in keys]
    arguments, parameters = {}, {}
    for key in keys:
        arguments[key], parameters[key] = (lexicon.phrase(rng, 2), STRING) if rng.random() < 0.7 else (rng.randint(0, 999), NUMBER)
    if len(arguments) < num_arguments:
        return _invented(rng, lexicon, num_arguments)
    about = rng.choice([f"Runs {name.replace('_', ' ')}.", "A helper function.", "Does the work."])
    tool = Tool(name, parameters, about if rng.random() < 0.4 else "", _comments(rng, **{keys[0]: f"The {keys[0]}"}),
                frozenset(key for key in keys if rng.random() < 0.1))
    return Request(tool, arguments, _question(rng, name, arguments))


def _invented_name(rng, lexicon) -> str:
    if rng.random() < 0.6:
        return f"{rng.choice(VERBS)}_{rng.choice(NOUNS)}"
    return f"{rng.choice([rng.choice(VERBS), lexicon.nonsense(rng)])}_{lexicon.nonsense(rng)}"


def _question(rng, name: str, arguments: dict) -> str:
    if len(arguments) == 1:
        (key, value), = arguments.items()
        words = name.split("_")
        return rng.choice([
            f"Call {name} with {key} {value}", f"Use {name} with {value}.", f"{name}: {value}",
            f"Please call {name} for {value}.", f"Call {name} with {key} = {value}", f"Run {name} with {value}",
            f"{words[0].capitalize()} the {words[1]} {value}.", f"{words[0].capitalize()} {words[1]} with {key} {value}",
        ])
    style = rng.choice(["{k} {v}", "{k} = {v}", "{k} is {v}", "{k}: {v}"])
    pairs = rng.choice([" and ", ", "]).join(style.format(k=key, v=value) for key, value in arguments.items())
    return rng.choice(["Call {n} with {p}", "Use {n} with {p}.", "Please run {n} with {p}.", "{n}: {p}"]).format(n=name, p=pairs)
