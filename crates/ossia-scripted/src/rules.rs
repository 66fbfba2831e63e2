//! Rules: patterns and what to say.

use std::time::Duration;

use serde::Deserialize;

use crate::ScriptedError;

/// An ordered list of rules; the first match wins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules(Vec<Rule>);

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Text that has to occur in the last user message.
    pub pattern: String,
    /// If set, whether results of tools have to stand after the last user message, or must not.
    pub after_tools: Option<bool>,
    /// What to say.
    pub script: Script,
    /// Pause per token, in place of the runner's.
    pub delay: Option<Duration>,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq)]
pub enum Script {
    /// Harmony text after `<|start|>assistant`, or plain text for a final message.
    Text(String),
    /// Token ids after `<|start|>assistant`.
    Tokens(Vec<u32>),
}

/// A rule as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    pattern: String,
    #[serde(default)]
    after_tools: Option<bool>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    tokens: Option<Vec<u32>>,
    #[serde(default)]
    delay_ms: Option<u64>,
}

impl Rules {
    /// Reads a rules file's JSON.
    ///
    /// # Errors
    /// [`ScriptedError`] naming the line, or the rule at fault.
    pub fn from_json(json: &str) -> Result<Self, ScriptedError> {
        let raw: Vec<RawRule> = serde_json::from_str(json)?;
        raw.into_iter().enumerate().map(|(index, rule)| rule.check(index)).collect::<Result<_, _>>().map(Self)
    }

    /// The first rule that fits: the last user message and whether tools have answered it.
    pub(crate) fn find(&self, message: &str, after_tools: bool) -> Option<&Rule> {
        let fits = |rule: &&Rule| {
            message.contains(&rule.pattern) && rule.after_tools.is_none_or(|wanted| wanted == after_tools)
        };
        self.0.iter().find(fits)
    }

    /// Refuses token ids that the vocabulary does not have.
    pub(crate) fn check_tokens(&self, vocab_size: usize) -> Result<(), ScriptedError> {
        for (index, rule) in self.0.iter().enumerate() {
            let Script::Tokens(ids) = &rule.script else { continue };
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(ScriptedError::Token { index, id, vocab_size });
            }
        }
        Ok(())
    }
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        Self(rules)
    }
}

impl RawRule {
    fn check(self, index: usize) -> Result<Rule, ScriptedError> {
        let script = match (self.text, self.tokens) {
            (Some(text), None) => Script::Text(text),
            (None, Some(tokens)) => Script::Tokens(tokens),
            _ => return Err(ScriptedError::Script { index }),
        };
        let delay = self.delay_ms.map(Duration::from_millis);
        Ok(Rule { pattern: self.pattern, after_tools: self.after_tools, script, delay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_wins() {
        let json = r#"[{"pattern": "a", "text": "1"}, {"pattern": "b", "tokens": [2], "delay_ms": 5},
                       {"pattern": "", "text": "3"}]"#;
        let rules = Rules::from_json(json).expect("good rules");
        let script = |message| rules.find(message, false).map(|rule| rule.script.clone());
        assert_eq!(script("ba"), Some(Script::Text("1".to_owned())));
        assert_eq!(script("b"), Some(Script::Tokens(vec![2])));
        assert_eq!(script("B"), Some(Script::Text("3".to_owned())));
        assert_eq!(rules.find("b", true).and_then(|rule| rule.delay), Some(Duration::from_millis(5)));
    }

    #[test]
    fn a_rule_may_wait_for_the_tools() {
        let json = r#"[{"pattern": "a", "after_tools": false, "text": "1"}, {"pattern": "a", "text": "2"}]"#;
        let rules = Rules::from_json(json).expect("good rules");
        let script = |after_tools| rules.find("a", after_tools).map(|rule| rule.script.clone());
        assert_eq!(script(false), Some(Script::Text("1".to_owned())));
        assert_eq!(script(true), Some(Script::Text("2".to_owned())));
    }

    #[test]
    fn faults_are_named() {
        let cases = [
            (r#"[{"pattern": "a"}]"#, "rule 0"),
            (r#"[{"pattern": "a", "text": "x"}, {"pattern": "b", "text": "x", "tokens": [1]}]"#, "rule 1"),
            (r#"[{"text": "x"}]"#, "missing field `pattern`"),
            (r#"[{"pattern": "a", "txt": "x"}]"#, "unknown field `txt`"),
            ("{}", "expected a sequence"),
            ("[", "line 1"),
        ];
        for (json, expected) in cases {
            let message = Rules::from_json(json).expect_err(json).to_string();
            assert!(message.contains(expected), "{json}: {message}");
        }
        let rules = Rules::from(vec![Rule {
            pattern: String::new(),
            after_tools: None,
            script: Script::Tokens(vec![7]),
            delay: None,
        }]);
        assert!(rules.check_tokens(8).is_ok());
        assert!(matches!(
            rules.check_tokens(7),
            Err(ScriptedError::Token { index: 0, id: 7, vocab_size: 7 })
        ));
    }
}
