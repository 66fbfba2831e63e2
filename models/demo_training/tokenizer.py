"""Builds tokenizer.json: byte-level BPE whose words are the same tokens wherever they stand.

Copying a word from a prompt into JSON is easy only if `Paris` is one and the same token after a space, after a
quote and at the start of a line. So a word never carries its space. Three kinds of text carry spaces instead:
fixed phrases of the format (one token each), function words (` is `, `the `) and punctuation (`, `).
"""

import argparse
import json
import random
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from . import harmony, mixture
from .lexicon import Lexicon

PHRASES = [
    harmony.IDENTITY, harmony.CUTOFF, harmony.DATE, harmony.REASONING, harmony.CHANNELS, harmony.CHANNELS_WITHOUT_TOOLS,
    harmony.CALL_RULE, harmony.INSTRUCTIONS, harmony.TOOLS, harmony.TOOLS_END, harmony.FORMATS,
    " to=", "functions.", "type ", " = (_: {\n", "}) => any;\n\n", " = () => any;\n\n", "// ",
    ": string,\n", ": number,\n", "?: string,\n", "?: number,\n", ': "celsius" | "fahrenheit",\n', '?: "celsius" | "fahrenheit",\n',
    '{"type":"object","properties":{"', '":{"type":"string"},"', '":{"type":"integer"},"', '":{"type":"string"}}', '":{"type":"integer"}}',
    ',"required":["', '"],"additionalProperties":false}', '"]}', ',"additionalProperties":false}', '"],"type":"object"}', ',"type":"object"}',
    '{"additionalProperties":false,"properties":{"', '{"properties":{"', "The user ", "The function ",
]
FUNCTION_WORDS = (
    "a an the is are was am be of and or in on at for with by as it its this that I you your me my we not no do does can could "
    "should will would must has have here there what What who Who where How how Which which asks wants says Say say tell Tell "
    "give Give Please please The A It They So Now Add minus plus sum arguments takes fits look looks returned report answer each "
    "them from into JSON words same again right check subtract add difference capital know sorry call called Call Use Run"
).split()
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def pattern() -> str:
    """The regular expression that cuts text into pieces; BPE never merges across pieces."""
    phrases = "|".join(re.escape(phrase).replace("\\\n", "\\n").replace("\\ ", " ") for phrase in sorted(PHRASES, key=len, reverse=True))
    word = rf"(?:{'|'.join(sorted(FUNCTION_WORDS, key=len, reverse=True))})(?![\p{{L}}\p{{N}}_])(?: (?=[\p{{L}}\p{{N}}]))?"
    return "|".join([
        phrases, f" {word}", rf"(?<![_\p{{L}}]){word}", r"\p{L}+", r"\p{N}", r" ?[^\s\p{L}\p{N}]+(?: (?=\S))?", r"\n+", r"\s",
    ])


def sample_text(num_groups: int) -> list[str]:
    """Text of the training mixture without special tokens."""
    rng, lexicon, texts = random.Random(1), Lexicon(), []
    for _ in range(num_groups):
        group = mixture.draw(rng, lexicon)
        parts = [group.context.text()] + [text for exchange in group.exchanges for text, _ in exchange.segments]
        texts += re.split(r"<\|[a-z]+\|>", "".join(parts))
    return [text for text in texts if text]


def build(vocab_size: int, num_groups: int = 12000) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` tokens: bytes, merges, phrases, special tokens in that order."""
    phrases = [BYTE_LEVEL.pre_tokenize_str(phrase)[0][0] for phrase in PHRASES]
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern()), behavior="isolated"), BYTE_LEVEL])
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(harmony.SPECIAL_TOKENS) - len(phrases),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    shown = "|".join(re.escape(phrase) for phrase in sorted(PHRASES, key=len, reverse=True))
    texts = (part for text in sample_text(num_groups) for part in re.split(shown, text))
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = dict(learned["vocab"])
    for phrase in phrases:
        vocab.setdefault(phrase, len(vocab))
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in harmony.SPECIAL_TOKENS])
    return tokenizer


def main() -> None:
    """Writes the tokenizer and says how long the training groups are in tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=1280)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    tokenizer = build(options.vocab_size)
    tokenizer.save(options.out)
    print("vocabulary", tokenizer.get_vocab_size())


if __name__ == "__main__":
    main()
