//! Which chain of thought the model sees again.

use crate::{Channel, Message};

/// The messages without the analysis of completed turns.
///
/// A final message completes a turn. So everything on the analysis channel before the last final message goes (calls
/// of built-in tools and their results included: they are thought), and everything after it stays, for there the
/// model is still at work. A user who interrupts a tool loop does not complete the turn.
pub(super) fn retained(messages: &[Message]) -> impl Iterator<Item = &Message> {
    let completed = messages.iter().rposition(Message::is_final).unwrap_or(0);
    let is_kept =
        move |idx: usize, message: &Message| idx >= completed || message.channel != Some(Channel::Analysis);
    messages
        .iter()
        .enumerate()
        .filter(move |(idx, message)| is_kept(*idx, message))
        .map(|(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contents of the messages that are kept, joined.
    fn kept(messages: &[Message]) -> String {
        retained(messages).map(|message| message.content.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn analysis_is_kept_inside_the_current_tool_loop_only() {
        let user = || Message::user("u");
        let thought = |text: &str| Message::assistant_analysis(text);
        let answer = || Message::assistant_final("f");
        let call = || Message::function_call("c", "call");
        let result = || Message::tool_result("c", "result");
        let search = || Message::builtin_call("browser.search", "search");
        let found = || Message::builtin_result("browser.search", "found");
        let cases = [
            (vec![], ""),
            (vec![user()], "u"),
            (vec![user(), thought("a1")], "u a1"),
            (vec![user(), thought("a1"), answer(), user()], "u f u"),
            (vec![user(), thought("a1"), call(), result()], "u a1 call result"),
            (
                vec![user(), thought("a1"), call(), result(), thought("a2"), call(), result()],
                "u a1 call result a2 call result",
            ),
            (vec![user(), thought("a1"), call(), result(), answer(), user()], "u call result f u"),
            // The prompt ends in a tool's result, and an earlier turn is complete: its analysis goes all the same.
            (
                vec![user(), thought("a1"), answer(), user(), thought("a2"), call(), result()],
                "u f u a2 call result",
            ),
            // Two completed turns: the analysis between the two final messages goes too.
            (vec![user(), thought("a1"), answer(), user(), thought("a2"), answer(), user()], "u f u f u"),
            (vec![user(), thought("a1"), search(), found(), thought("a2")], "u a1 search found a2"),
            (vec![user(), thought("a1"), search(), found(), answer(), user()], "u f u"),
            // Interrupted by the user inside the tool loop.
            (vec![user(), thought("a1"), call(), result(), user()], "u a1 call result u"),
        ];
        for (messages, expected) in cases {
            assert_eq!(kept(&messages), expected);
        }
    }
}
