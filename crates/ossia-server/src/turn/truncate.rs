//! Making a prompt fit that is too long: the oldest turns go, what system and developer say stays.

use ossia_harmony::{Conversation, Message, Role};

use crate::prepare::TurnPlan;

/// Share of the context that is kept free for an answer of no stated length, as a divisor.
const ANSWER_SHARE: usize = 8;

/// The prompt without its oldest turns, as few as leave room for an answer in `max` tokens. The last turn stays,
/// however long it is.
pub(super) fn truncated(
    whole: Vec<u32>,
    plan: &TurnPlan,
    max: usize,
    render: impl Fn(&Conversation) -> Vec<u32>,
) -> Vec<u32> {
    let answer = plan.max_tokens.unwrap_or(max / ANSWER_SHARE).min(max / 2);
    if whole.len() + answer <= max {
        return whole;
    }
    let starts = turn_starts(&plan.conversation.messages);
    let prompt = |dropped: usize| render(&without(&plan.conversation, starts[dropped]));
    // The more turns are dropped the shorter the prompt: find the first number that fits.
    let (mut low, mut high) = (1, starts.len().saturating_sub(1));
    if high == 0 {
        return whole;
    }
    while low < high {
        let middle = (low + high) / 2;
        if prompt(middle).len() + answer <= max { high = middle } else { low = middle + 1 }
    }
    prompt(low)
}

/// Where each turn begins: with the user's message, or with the first of several in a row.
fn turn_starts(messages: &[Message]) -> Vec<usize> {
    let is_user = |message: &Message| message.author.role == Role::User;
    let begins = |&i: &usize| is_user(&messages[i]) && (i == 0 || !is_user(&messages[i - 1]));
    let mut starts: Vec<usize> = (0..messages.len()).filter(begins).collect();
    if starts.first().is_none_or(|first| *first > 0) {
        starts.insert(0, 0); // what stands before the first user's message
    }
    starts
}

/// The conversation from `start` on, with the developer messages that stood before.
fn without(conversation: &Conversation, start: usize) -> Conversation {
    let (before, rest) = conversation.messages.split_at(start);
    let stays = |message: &&Message| matches!(message.author.role, Role::System | Role::Developer);
    let messages = before.iter().filter(stays).chain(rest).cloned().collect();
    Conversation { messages, ..conversation.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        vec![
            Message::user("u1"),
            Message::assistant_final("a1"),
            Message::developer("d"),
            Message::user("u2"),
            Message::user("u3"),
            Message::function_call("f", "{}"),
            Message::tool_result("f", "r"),
            Message::assistant_final("a2"),
            Message::user("u4"),
        ]
    }

    #[test]
    fn turns_begin_with_users() {
        assert_eq!(turn_starts(&messages()), [0, 3, 8]);
        assert_eq!(turn_starts(&messages()[1..]), [0, 2, 7]);
        assert_eq!(turn_starts(&[]), [0]);
    }

    #[test]
    fn developers_stay() {
        let conversation = Conversation { messages: messages(), ..Conversation::default() };
        let kept =
            |start| without(&conversation, start).messages.into_iter().map(|m| m.content).collect::<Vec<_>>();
        assert_eq!(kept(8), ["# Instructions\n\nd", "u4"]);
        assert_eq!(kept(0).len(), 9);
    }
}
