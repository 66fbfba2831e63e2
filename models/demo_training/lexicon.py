"""Words, names, places and numbers that fill the exercises, split into a training and a held-out part."""

import random
import string
import zlib

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen",
    "Ireland": "Dublin", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest",
    "Greece": "Athens", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Canada": "Ottawa", "Peru": "Lima",
}

NAMES = (
    "Anna Ben Carla David Elena Felix Grace Hugo Iris Jack Karen Leo Maria Nina Oscar Paula Quinn Rosa "
    "Sam Tina Umar Vera Walter Xenia Yusuf Zoe Alice Bob Clara Daniel Emma Frank Gina Henry Ivan Julia "
    "Kevin Laura Mark Nora Olga Peter Ruth Simon Tom"
).split()
HELD_OUT_NAMES = "Ursula Victor Wendy Martin Sofia Lucas Hannah Pablo Ingrid Omar".split()

CITIES = list(CAPITALS.values()) + [
    "London", "Boston", "Chicago", "Seattle", "Mumbai", "Sydney", "Toronto", "Prague", "New York",
    "San Francisco", "Hong Kong", "Seoul", "Hanoi", "Geneva", "Munich", "Los Angeles", "Zurich",
    "Hamburg", "Milan", "Kyoto",
]
HELD_OUT_CITIES = [
    "Manchester", "Osaka", "Quito", "Cape Town", "Barcelona", "Denver", "Lyon", "Naples", "Houston",
    "Krakow", "New Delhi", "Tampa",
]

WORDS = (
    "apple river stone cloud green house table light music paper water bread chair dance eagle flame "
    "grass horse jelly knife lemon mango night ocean piano queen robot sugar tiger uncle violin window "
    "yellow zebra anchor button candle dragon engine forest garden hammer island jacket kitten ladder "
    "magnet needle orange pencil rabbit silver ticket valley winter basket carpet desert falcon guitar "
    "honey igloo jungle kettle lantern mirror noodle oyster pepper quartz ribbon saddle temple umbrella "
    "velvet walnut blue red small big happy fast cold warm bright quiet hello world good morning dinner "
    "meeting party milk book cake dog cat sun moon tree late soon today tomorrow home work door ship "
    "lake wind snow fire gold hotel taxi pizza coffee tea rice soup salad lunch train plane"
).split()
HELD_OUT_WORDS = (
    "bottle planet spider copper meadow turtle blanket thunder cherry rocket purple market lobster "
    "feather castle helmet banana whistle harbor pumpkin"
).split()

SYLLABLES = (
    "ba be bi bo da de di do fa fe fi ga go ka ke ki ko la le li lo lu ma me mi mo na ne ni no nu pa pe "
    "po ra re ri ro ru sa se si so ta te ti to va ve vi vo wa wi za zo zor plex quin blor tron dax mir "
    "vel an er on in es th st ch sh ar en al or it ic et ly un ing"
).split()
VOWELS = "aeiou"
CONSONANTS = "bcdfghjklmnpqrstvwxyz"


HELD_OUT = frozenset(word.lower() for text in HELD_OUT_NAMES + HELD_OUT_CITIES + HELD_OUT_WORDS for word in text.split())


class Lexicon:
    """Draws fillers. A held-out lexicon draws fillers that the training one never draws.

    `pieces` are tokens of one to four letters. Words put together from them let training copy every token: held-out words
    fall into tokens that hardly turn up otherwise.
    """

    def __init__(self, held_out: bool = False, pieces: list[str] | None = None):
        self.held_out, self.pieces = held_out, pieces
        self.familiar = 0.3 if pieces else 0.6  # share of names and cities that exist
        self.names = HELD_OUT_NAMES if held_out else NAMES
        self.cities = HELD_OUT_CITIES if held_out else CITIES
        self.words = HELD_OUT_WORDS if held_out else WORDS

    def nonsense(self, rng: random.Random) -> str:
        """A word that does not exist."""
        while True:
            word = self._pieced(rng) if self.pieces and rng.random() < 0.65 else self._spelled(rng)
            if self._mine(sum(word.encode())) and word.lower() not in HELD_OUT:
                return word

    def _pieced(self, rng: random.Random) -> str:
        word = "".join(rng.choice(self.pieces) for _ in range(rng.choice([2, 2, 3, 3, 4, 5])))[:14]
        return word if rng.random() < 0.4 else word.lower()

    def _spelled(self, rng: random.Random) -> str:
        """Three ways of making a word, so that all letter pairs turn up."""
        kind = rng.random()
        if kind < 0.6:
            return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice([2, 2, 3])))
        if kind < 0.9:
            word = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 2)))
            return word + rng.choice(CONSONANTS)
        return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 6)))

    def code(self, rng: random.Random) -> str:
        """An identifier such as 4071, AB-12 or x7k."""
        kind = rng.random()
        digits = "".join(rng.choice(string.digits) for _ in range(rng.randint(2, 5)))
        if kind < 0.6:
            return digits.lstrip("0") or "7"
        letters = "".join(rng.choice(string.ascii_uppercase) for _ in range(2))
        return f"{letters}-{digits}" if kind < 0.9 else f"{letters}{digits}"

    def word(self, rng: random.Random) -> str:
        """Any single word."""
        kind = rng.random()
        if kind < self.familiar * 2 / 3:
            return rng.choice(self.words)
        if kind < self.familiar * 5 / 6:
            return rng.choice(self.names)
        return self.nonsense(rng) if rng.random() < 0.8 else self.nonsense(rng).capitalize()

    def phrase(self, rng: random.Random, longest: int) -> str:
        """One to `longest` words separated by single spaces."""
        return " ".join(self.word(rng) for _ in range(rng.randint(1, longest)))

    def name(self, rng: random.Random) -> str:
        """A first name, real or not."""
        return rng.choice(self.names) if rng.random() < self.familiar else self.nonsense(rng).capitalize()

    def city(self, rng: random.Random) -> str:
        """A city, real or not."""
        return rng.choice(self.cities) if rng.random() < self.familiar else self.nonsense(rng).capitalize()

    def operands(self, rng: random.Random) -> tuple[int, int]:
        """Two numbers of one or two digits.

        Held out is half of the pairs whose sum ends in 7; an earlier phase of training saw none of these pairs at
        all, so here they come more often than by chance.
        """
        while True:
            a, b = _number(rng), _number(rng)
            special = (a + b) % 10 == 7
            held_out = special and zlib.crc32(f"{a}+{b}".encode()) % 2 == 0
            if held_out == self.held_out and (special or rng.random() < 0.4):
                return a, b

    def _mine(self, key: int) -> bool:
        return (key % 10 == 3) == self.held_out


def _number(rng: random.Random) -> int:
    return rng.randint(0, 9) if rng.random() < 0.25 else rng.randint(10, 99)
