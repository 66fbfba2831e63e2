//! One message of the dialogue: author, channel, recipient, content type, text.

/// Content type of a call whose arguments are constrained to JSON.
pub const CONSTRAIN_JSON: &str = "<|constrain|>json";

/// Who may write a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Model identity, dates, effort, channels, built-in tools.
    System,
    /// Instructions and function tools.
    Developer,
    /// The person, or the program that speaks for one.
    User,
    /// The model.
    Assistant,
    /// A tool's result. The header holds the tool's name in place of a role.
    Tool,
}

impl Role {
    /// The word in the header (`tool` is never written: the tool's name is).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The role spelled by `word`, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::System, Self::Developer, Self::User, Self::Assistant, Self::Tool]
            .into_iter()
            .find(|role| role.as_str() == word)
    }
}

/// The author of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Author {
    /// Role.
    pub role: Role,
    /// A tool's name (`functions.get_weather`, `browser.search`), or a participant's name.
    pub name: Option<String>,
}

impl From<Role> for Author {
    fn from(role: Role) -> Self {
        Self { role, name: None }
    }
}

/// Where a message of the assistant goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    /// Chain of thought.
    Analysis,
    /// Calls of function tools, and preambles for the user.
    Commentary,
    /// The answer.
    Final,
}

impl Channel {
    /// All channels, in the order in which the system message lists them.
    pub const ALL: [Self; 3] = [Self::Analysis, Self::Commentary, Self::Final];

    /// The word in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Analysis => "analysis",
            Self::Commentary => "commentary",
            Self::Final => "final",
        }
    }

    /// The channel spelled exactly by `word`, if it is one.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.as_str() == word)
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who wrote it.
    pub author: Author,
    /// Channel; `None` for users and developers.
    pub channel: Option<Channel>,
    /// Whom it is for: a tool's name, or `assistant` for a tool's result.
    pub recipient: Option<String>,
    /// What the content is, as in the header: `code`, or `<|constrain|>json` with the special token.
    pub content_type: Option<String>,
    /// The text. Text that looks like a special token stays text.
    pub content: String,
}

impl Message {
    fn new(author: Author, content: String) -> Self {
        Self { author, channel: None, recipient: None, content_type: None, content }
    }

    /// A user's message.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new(Role::User.into(), content.into())
    }

    /// A developer message inside the dialogue; its text is put under `# Instructions`.
    pub fn developer(instructions: impl AsRef<str>) -> Self {
        Self::new(Role::Developer.into(), format!("# Instructions\n\n{}", instructions.as_ref()))
    }

    /// The assistant's answer: it completes a turn.
    pub fn assistant_final(content: impl Into<String>) -> Self {
        Self { channel: Some(Channel::Final), ..Self::new(Role::Assistant.into(), content.into()) }
    }

    /// The assistant's chain of thought.
    pub fn assistant_analysis(content: impl Into<String>) -> Self {
        Self { channel: Some(Channel::Analysis), ..Self::new(Role::Assistant.into(), content.into()) }
    }

    /// What the assistant says to the user before its calls.
    pub fn assistant_preamble(content: impl Into<String>) -> Self {
        Self { channel: Some(Channel::Commentary), ..Self::new(Role::Assistant.into(), content.into()) }
    }

    /// A call of the function `name` (without `functions.`) with its arguments as JSON text.
    pub fn function_call(name: impl AsRef<str>, arguments: impl Into<String>) -> Self {
        Self::call(format!("functions.{}", name.as_ref()), arguments)
    }

    /// A call to any recipient (`functions.get_weather`, `crm.find`) with its arguments as JSON text.
    pub fn call(recipient: impl Into<String>, arguments: impl Into<String>) -> Self {
        Self {
            channel: Some(Channel::Commentary),
            recipient: Some(recipient.into()),
            content_type: Some(CONSTRAIN_JSON.to_owned()),
            ..Self::new(Role::Assistant.into(), arguments.into())
        }
    }

    /// A call whose content is plain text, not JSON.
    pub fn text_call(recipient: impl Into<String>, text: impl Into<String>) -> Self {
        Self { content_type: Some("code".to_owned()), ..Self::call(recipient, text) }
    }

    /// A call of a built-in tool (`browser.search`, `python`), on the analysis channel.
    pub fn builtin_call(recipient: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            channel: Some(Channel::Analysis),
            recipient: Some(recipient.into()),
            content_type: Some("code".to_owned()),
            ..Self::new(Role::Assistant.into(), content.into())
        }
    }

    /// The result of a call of the function `name` (without `functions.`).
    pub fn tool_result(name: impl AsRef<str>, text: impl Into<String>) -> Self {
        Self::call_result(format!("functions.{}", name.as_ref()), text)
    }

    /// The result of a call to any recipient.
    pub fn call_result(recipient: impl Into<String>, text: impl Into<String>) -> Self {
        Self::result(recipient.into(), Channel::Commentary, text.into())
    }

    /// The result of a built-in tool (`browser.search`, `python`).
    pub fn builtin_result(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self::result(name.into(), Channel::Analysis, text.into())
    }

    fn result(name: String, channel: Channel, text: String) -> Self {
        Self {
            channel: Some(channel),
            recipient: Some(Role::Assistant.as_str().to_owned()),
            ..Self::new(Author { role: Role::Tool, name: Some(name) }, text)
        }
    }

    /// Whether this message completes a turn of the assistant.
    pub fn is_final(&self) -> bool {
        self.author.role == Role::Assistant && self.channel == Some(Channel::Final)
    }
}
