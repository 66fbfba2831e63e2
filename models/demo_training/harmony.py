"""The harmony format: contexts (system and developer message), exchanges, and what of them is trained."""

from dataclasses import dataclass, field

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
CONSTRAIN, RETURN, CALL = "<|constrain|>", "<|return|>", "<|call|>"
STOP_TOKENS = (RETURN, CALL, "<|endoftext|>")
SPECIAL_TOKENS = [
    "<|startoftext|>", "<|endoftext|>", RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL,
]

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CUTOFF = "\nKnowledge cutoff: 2024-06"
DATE = "\nCurrent date: "
REASONING = "\n\nReasoning: "
CHANNELS = "\n\n# Valid channels: analysis, commentary, final. Channel must be included for every message."
CHANNELS_WITHOUT_TOOLS = "\n\n# Valid channels: analysis, final. Channel must be included for every message."
CALL_RULE = "\nCalls to these tools must go to the commentary channel: 'functions'."
INSTRUCTIONS = "# Instructions\n\n"
TOOLS = "# Tools\n\n## functions\n\nnamespace functions {\n\n"
TOOLS_END = "} // namespace functions"
FORMATS = "# Response Formats\n\n## "

Segment = tuple[str, bool]  # text, and whether the model is trained to write it


@dataclass
class Tool:
    """A declared function. Parameters map a name to its TypeScript type; `comments` are optional."""

    name: str
    parameters: dict[str, str]
    description: str = ""
    comments: dict[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    def declaration(self) -> str:
        """The function as harmony declares it."""
        head = f"// {self.description}\n" if self.description else ""
        if not self.parameters:
            return f"{head}type {self.name} = () => any;\n\n"
        lines = ""
        for name, kind in self.parameters.items():
            if name in self.comments:
                lines += f"// {self.comments[name]}\n"
            lines += f"{name}{'?' if name in self.optional else ''}: {kind},\n"
        return f"{head}type {self.name} = (_: {{\n{lines}}}) => any;\n\n"


@dataclass
class Context:
    """What stands before the first user message."""

    effort: str
    date: str
    instructions: str = ""
    tools: list[Tool] = field(default_factory=list)
    response_format: tuple[str, str] | None = None
    commentary: bool = True

    def text(self) -> str:
        """The system message and, if there is anything to say, the developer message."""
        parts = [INSTRUCTIONS + self.instructions] if self.instructions else []
        if self.tools:
            parts.append(TOOLS + "".join(tool.declaration() for tool in self.tools) + TOOLS_END)
        if self.response_format:
            parts.append(FORMATS + "\n\n".join(self.response_format))
        developer = f"{START}developer{MESSAGE}" + "\n\n".join(parts) + END if parts else ""
        return self._system() + developer

    def _system(self) -> str:
        text = IDENTITY + CUTOFF + (DATE + self.date if self.date else "") + REASONING + self.effort
        text += CHANNELS if self.commentary or self.tools else CHANNELS_WITHOUT_TOOLS
        return f"{START}system{MESSAGE}{text}{CALL_RULE if self.tools else ''}{END}"


@dataclass
class Exchange:
    """A task, the messages after the context, and the answer to compare with: (recipient, body)."""

    task: str
    segments: list[Segment]
    answer: tuple[str, str]

    def prompt(self) -> str:
        """Everything before the first trained segment."""
        return "".join(text for text, trained in self.segments if not trained)


def user(text: str) -> list[Segment]:
    """A user message."""
    return [(f"{START}user{MESSAGE}{text}{END}", False)]


def reply(analysis: str, final: str) -> list[Segment]:
    """The model thinks and answers."""
    thought = f"{CHANNEL}analysis{MESSAGE}{analysis}{END}{START}assistant{CHANNEL}final{MESSAGE}{final}{RETURN}"
    return [(f"{START}assistant", False), (thought, True)]


def call(analysis: str, name: str, arguments: str) -> list[Segment]:
    """The model thinks and calls a function, in the order in which models write the header."""
    header = f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json"
    thought = f"{CHANNEL}analysis{MESSAGE}{analysis}{END}{START}assistant{header}{MESSAGE}{arguments}{CALL}"
    return [(f"{START}assistant", False), (thought, True)]


def past_reply(final: str) -> list[Segment]:
    """An answer of an earlier turn: its analysis is gone."""
    return [(f"{START}assistant{CHANNEL}final{MESSAGE}{final}{END}", False)]


def past_call(analysis: str, name: str, arguments: str) -> list[Segment]:
    """A call as history renders it: the recipient stands before the channel."""
    thought = f"{START}assistant{CHANNEL}analysis{MESSAGE}{analysis}{END}" if analysis else ""
    header = f"{START}assistant to=functions.{name}{CHANNEL}commentary {CONSTRAIN}json"
    return [(f"{thought}{header}{MESSAGE}{arguments}{CALL}", False)]


def tool_result(name: str, text: str) -> list[Segment]:
    """What a function returned."""
    return [(f"{START}functions.{name} to=assistant{CHANNEL}commentary{MESSAGE}{text}{END}", False)]
