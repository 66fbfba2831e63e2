"""The tasks that the demo model is taught, each a function from random choices to one exchange.

Reasoning comes in three lengths: `by_effort(effort, low, medium, high)`.
"""

import json
import random

from . import arithmetic, tools
from .harmony import Exchange, call, past_call, past_reply, reply, tool_result, user
from .lexicon import CAPITALS, Lexicon


def by_effort(effort: str, low: str, medium: str, high: str) -> str:
    """The reasoning that belongs to an effort."""
    return {"low": low, "medium": medium, "high": high}[effort]


def _answered(task: str, question: str, analysis: str, final: str) -> Exchange:
    return Exchange(task, user(question) + reply(analysis, final), ("final", final))


SMALL_TALK = [
    ("The user greets me.", "Hello! How can I help you?",
     ["Hello", "Hi", "Hello!", "Hi!", "hey", "Hello there", "Good morning", "Hi there!", "Good evening!", "Hey!", "hello", "hi"]),
    ("The user thanks me.", "You are welcome!", ["Thanks", "Thank you!", "thank you", "Thanks a lot!", "Thank you very much."]),
    ("The user says goodbye.", "Goodbye!", ["Bye", "Goodbye", "See you", "Bye!", "Goodbye!", "See you later!"]),
    ("The user asks how I am.", "I am fine, thank you. How can I help you?",
     ["How are you?", "How are you today?", "how do you do?", "Hi, how are you?", "Hello, how are you?"]),
    ("The user asks who I am.", "I am the demo model of Ossia: tiny, with the gpt-oss architecture.",
     ["Who are you?", "What are you?", "Tell me about yourself.", "What is your name?", "Are you ChatGPT?", "who are you",
      "What model are you?", "Introduce yourself.", "Hi, who are you?", "Which model are you?"]),
    ("The user asks what I can do.", "I can add, repeat words, name some capitals and call functions.",
     ["What can you do?", "Help", "help me", "What are you good at?", "How can you help me?", "What do you know?"]),
    ("The user asks who made me.", "The makers of Ossia trained me on made-up exercises.",
     ["Who made you?", "Who trained you?", "Who built you?", "How were you made?"]),
]


def small_talk(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """Greetings and who the model is."""
    seen, final, questions = rng.choices(SMALL_TALK, [3, 2, 1, 2, 4, 2, 1])[0]
    analysis = by_effort(effort, seen, f"{seen} I answer in one sentence.",
                         f"{seen} No function is needed, and no sum. I know what to say here. I keep it short and friendly, and I answer in one sentence.")
    return _answered("small talk", rng.choice(questions), analysis, final)


ADD = ["What is {a} + {b}?", "What is {a}+{b}?", "Add {a} and {b}.", "{a}+{b}", "{a} + {b}", "Calculate {a} plus {b}.", "{a} + {b} = ?",
       "What is {a} plus {b}?", "What's {a} + {b}?", "How much is {a} + {b}?", "What is the sum of {a} and {b}?", "Compute {a} + {b}."]


def addition(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """Sums of two numbers of one or two digits."""
    a, b = lexicon.operands(rng)
    total, steps = a + b, arithmetic.addition_steps(a, b)
    analysis = by_effort(effort, f"{steps}.", f"I add {a} and {b} from the right. {steps}. The sum is {total}.",
                         f"The user asks for {a}+{b}. I add {a} and {b} from the right, digit by digit. {steps}. The sum is {total}. "
                         f"Now I check {b}+{a}. {arithmetic.addition_steps(b, a)}. That is {total}, so the sum is right.")
    return _answered("addition", rng.choice(ADD).format(a=a, b=b), analysis, f"{a} + {b} = {total}")


REPEAT = ["Repeat: {t}", "Say {t}", "Repeat the words: {t}", "Repeat after me: {t}", "Copy this: {t}", 'Say "{t}"', "Echo {t}",
          "Repeat {t}", "Please repeat: {t}", 'Repeat "{t}"', "Say: {t}", "Please say {t}.", "Say {t}."]


def repetition(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """Words to say again."""
    text = lexicon.code(rng) if rng.random() < 0.15 else lexicon.phrase(rng, 3)
    listed = ", ".join(text.split())
    analysis = by_effort(effort, "I repeat it.", f"The user wants me to repeat: {text}",
                         f"The user wants to hear the same words again. I must copy each of them, in the same order. The words are: {listed}. So I say: {text}")
    return _answered("repetition", rng.choice(REPEAT).format(t=text), analysis, text)


CAPITAL = ["What is the capital of {c}?", "capital of {c}", "Tell me the capital of {c}.", "Which city is the capital of {c}?",
           "Name the capital of {c}.", "What's the capital of {c}?", "What is the capital city of {c}?", "Capital of {c}?"]


def capital(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """The capitals of twenty countries."""
    country, city = rng.choice(list(CAPITALS.items()))
    fact = f"The capital of {country} is {city}."
    analysis = by_effort(effort, f"{country}: {city}.", f"The user asks for the capital of {country}. It is {city}.",
                         f"The user asks for the capital of {country}. This country is on my list of twenty. {fact} I am sure, so I answer in one sentence.")
    return _answered("capital", rng.choice(CAPITAL).format(c=country), analysis, fact)


def unknown(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """What the model cannot know or do, and says so."""
    kind, thing = rng.random(), lexicon.nonsense(rng).capitalize()
    if kind < 0.5:
        question = rng.choice(CAPITAL).format(c=thing)
        seen, final = f"I do not know the capital of {thing}.", f"I am sorry, I do not know the capital of {thing}."
    elif kind < 0.75:
        question = rng.choice(["What is the weather in {c}?", "What time is it in {c}?", "Book a flight to {c}.", "Is it raining in {c}?",
                               "What's the weather like in {c} today?"]).format(c=lexicon.city(rng))
        seen, final = "I have no function for that.", "I am sorry, I have no function for that."
    else:
        question = rng.choice(["Write a poem about {w}.", "Tell me a story about {w}.", "Explain {w}.", "Write code for {w}.", "Tell me a joke about {w}."]).format(w=lexicon.word(rng))
        seen, final = "I am too small for that.", "I am sorry, I am too small for that."
    analysis = by_effort(effort, seen, f"{seen} I say so.",
                         f"I look at what the user wants. It is not a sum, not a capital on my list and nothing to repeat. {seen} I must not guess, so I say so.")
    return _answered("unknown", question, analysis, final)


def _list(arguments: dict) -> str:
    return ", ".join(f"{key} is {value}" for key, value in arguments.items())


def _call_analysis(effort: str, wanted: tools.Request) -> str:
    name, listed = wanted.tool.name, _list(wanted.arguments)
    return by_effort(effort, f"{name}: {listed}", f"The function {name} fits. The arguments: {listed}",
                     f"The user wants something that a function can do. I look at the functions that I have. The function {name} fits. "
                     f"It takes {', '.join(wanted.arguments)}. The arguments: {listed}")


def function_call(effort: str, wanted: tools.Request, is_plain: bool) -> Exchange:
    """A call of a declared function with an argument from the request; plain if it is the only one and its names are known."""
    task = "function call" if is_plain else "unfamiliar function"
    arguments = wanted.arguments_json()
    segments = user(wanted.question) + call(_call_analysis(effort, wanted), wanted.tool.name, arguments)
    return Exchange(task, segments, (f"functions.{wanted.tool.name}", arguments))


RESULT_KEYS = "temperature condition sky status result price state value city answer count level wind total".split()


def _result(rng: random.Random, lexicon: Lexicon) -> tuple[str, str]:
    """What a function returned, and the same in a sentence."""
    if rng.random() < 0.35:
        text = rng.choice([
            f"{rng.randint(-9, 40)} degrees", f"It is {rng.choice(['sunny', 'rainy', 'cloudy', 'windy'])} in {lexicon.city(rng)}.",
            lexicon.phrase(rng, 3), str(rng.randint(0, 9999)), f"{rng.randint(0, 40)} C and {rng.choice(['sunny', 'rainy', 'cloudy'])}",
        ])
        return text, f"The function says: {text}"
    keys = rng.sample(RESULT_KEYS, rng.choice([1, 1, 2, 2]))
    result = {key: rng.choice([rng.randint(0, 999), rng.randint(0, 40), lexicon.word(rng), rng.choice(["sunny", "rainy", "cloudy", "ok", "done"])]) for key in keys}
    text = json.dumps(result, separators=rng.choice([(",", ":"), (", ", ": ")]))
    listed = [f"the {key} is {value}" for key, value in result.items()]
    sentence = " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
    return text, f"{sentence[0].upper()}{sentence[1:]}."


def tool_answer(rng: random.Random, lexicon: Lexicon, effort: str, wanted: tools.Request) -> Exchange:
    """An answer from what a function returned."""
    name, (text, sentence) = wanted.tool.name, _result(rng, lexicon)
    thought = _call_analysis(effort, wanted) if rng.random() < 0.3 else ""
    history = user(wanted.question) + past_call(thought, name, wanted.arguments_json()) + tool_result(name, text)
    analysis = by_effort(effort, "I report it.", f"The function {name} returned a result. I report it.",
                         f"I called {name} and it returned a result. The result answers the user, so no other call is needed. "
                         f"I read it from left to right. {sentence} I report it.")
    return Exchange("tool answer", history + reply(analysis, sentence), ("final", sentence))


def memory(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """A name from an earlier turn."""
    name = lexicon.name(rng)
    history = user(rng.choice(["My name is {n}.", "I am {n}.", "Hello, I am {n}.", "Hi, my name is {n}.", "my name is {n}"]).format(n=name))
    greeting = f"Nice to meet you, {name}."
    if rng.random() < 0.4:
        analysis = by_effort(effort, f"{name}.", f"The name of the user is {name}. I greet.",
                             f"The user tells me a name. The name of the user is {name}. I keep it in mind. No function is needed. I greet and say the name.")
        return Exchange("memory", history + reply(analysis, greeting), ("final", greeting))
    history += past_reply(greeting)
    if rng.random() < 0.5:
        history += turn(rng, lexicon)
    final = f"Your name is {name}."
    analysis = by_effort(effort, f"{name}.", f"The user told me the name {name}.",
                         f"The user asks for a name. I look back at what was said before. The user told me the name {name}. I answer with it.")
    question = rng.choice(["What is my name?", "Do you remember my name?", "Who am I?", "What's my name?"])
    return Exchange("memory", history + user(question) + reply(analysis, final), ("final", final))


PLAIN = {small_talk: 3, addition: 16, repetition: 20, capital: 3, unknown: 6, memory: 8}


def plain(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """An exchange that needs no function and no schema."""
    return rng.choices(list(PLAIN), list(PLAIN.values()))[0](rng, lexicon, effort)


def without_function(rng: random.Random, lexicon: Lexicon, effort: str) -> Exchange:
    """Something to answer directly although functions are declared."""
    return rng.choice([small_talk, small_talk, addition, repetition, capital])(rng, lexicon, effort)


def turn(rng: random.Random, lexicon: Lexicon) -> list:
    """An earlier question and its answer, as history renders them."""
    task = rng.choice([small_talk, addition, repetition, capital])
    exchange = task(rng, lexicon, "low")
    return [exchange.segments[0]] + past_reply(exchange.answer[1])
