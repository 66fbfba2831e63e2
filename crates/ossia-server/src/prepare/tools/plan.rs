//! From declarations and a choice to a [`ToolPlan`].

use std::collections::HashSet;

use ossia_harmony::{GrammarScope, ToolNamespace};

use super::{Choice, Declared, ToolPlan};
use crate::error::ApiError;

/// Checks the declarations and applies the choice.
///
/// # Errors
/// 400 naming the declaration at fault, or `tool_choice` if it asks for what is not there.
pub(crate) fn plan(declared: &[Declared<'_>], choice: &Choice) -> Result<ToolPlan, ApiError> {
    let mut plan = ToolPlan::default();
    let mut seen = HashSet::new();
    for tool in declared {
        tool.check_names()?;
        if !seen.insert(tool.recipient()) {
            let message =
                format!("Invalid '{}.name': the function '{}' is declared twice.", tool.param, tool.name);
            return Err(ApiError::invalid(format!("{}.name", tool.param), "invalid_value", message));
        }
        plan.show(tool)?;
    }
    let all = declared.iter().map(Declared::callable).collect();
    if choice.is_none() {
        return Ok(ToolPlan::default());
    }
    (plan.callable, plan.required) = choice.narrow(all)?;
    plan.rules = declared.iter().filter_map(Declared::rule).collect();
    let callable: HashSet<&str> = plan.callable.iter().map(|tool| tool.recipient.as_str()).collect();
    plan.rules.retain(|rule| match &rule.scope {
        GrammarScope::Call(recipient) => callable.contains(recipient.as_str()),
        GrammarScope::Final => true,
    });
    Ok(plan)
}

impl ToolPlan {
    fn show(&mut self, tool: &Declared<'_>) -> Result<(), ApiError> {
        let shown = tool.shown()?;
        let Some((name, description)) = tool.namespace else {
            self.tools.push(shown);
            return Ok(());
        };
        match self.namespaces.iter_mut().find(|namespace| namespace.name == name) {
            Some(namespace) => namespace.tools.push(shown),
            None => self.namespaces.push(ToolNamespace {
                name: name.to_owned(),
                description: description.map(str::to_owned),
                tools: vec![shown],
            }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Strict, ToolRef};
    use super::*;

    fn declare<'a>(names: &[&'a str]) -> Vec<Declared<'a>> {
        let tools = names.iter().enumerate().map(|(i, name)| Declared {
            param: format!("tools[{i}].function"),
            namespace: None,
            name,
            description: None,
            kind: Kind::Function { parameters: None, strict: Strict::No },
        });
        tools.collect()
    }

    fn named(name: &str) -> Choice {
        Choice::Named(ToolRef::named(name, false))
    }

    #[test]
    fn choices_narrow_what_may_be_called() {
        let some = vec![ToolRef::named("a", false)];
        let cases: [(Choice, usize, &[&str], bool); 5] = [
            (Choice::None, 0, &[], false),
            (Choice::Auto, 2, &["a", "b"], false),
            (Choice::Required, 2, &["a", "b"], true),
            (named("b"), 2, &["b"], true),
            (Choice::Allowed { required: false, tools: some }, 2, &["a"], false),
        ];
        for (choice, num_tools, callable, required) in cases {
            let plan = plan(&declare(&["a", "b"]), &choice).expect("a legal choice");
            assert_eq!((plan.tools.len(), plan.required), (num_tools, required), "{choice:?}");
            let names: Vec<&str> = plan.callable.iter().map(|tool| tool.name.as_str()).collect();
            assert_eq!(names, callable, "{choice:?}");
            assert_eq!(plan.rules.len(), callable.len(), "{choice:?}");
        }
    }

    #[test]
    fn namespaces_keep_equal_names_apart() {
        let mut tools = declare(&["find", "find", "find"]);
        tools[1].namespace = Some(("crm", Some("Customers")));
        tools[2].namespace = Some(("files", None));
        let plan = plan(&tools, &Choice::Auto).expect("a legal choice");
        let recipients: Vec<&str> = plan.callable.iter().map(|tool| tool.recipient.as_str()).collect();
        assert_eq!(recipients, ["functions.find", "crm.find", "files.find"]);
        assert_eq!((plan.tools.len(), plan.namespaces.len()), (1, 2));
        let all_of_crm = ToolRef { namespace: Some("crm".to_owned()), name: None, custom: false };
        let choice = Choice::Allowed { required: true, tools: vec![all_of_crm] };
        let plan = super::plan(&tools, &choice).expect("a legal choice");
        assert_eq!(plan.callable.len(), 1);
    }

    #[test]
    fn impossible_choices_and_names_are_refused_by_name() {
        let long = "x".repeat(65);
        let cases: [(&[&str], Choice, &str); 7] = [
            (&["a"], named("b"), "tool_choice"),
            (&["a"], Choice::Named(ToolRef::named("a", true)), "tool_choice"),
            (&[], Choice::Required, "tool_choice"),
            (&["a", "a"], Choice::Auto, "tools[1].function.name"),
            (&["a b"], Choice::Auto, "tools[0].function.name"),
            (&[""], Choice::Auto, "tools[0].function.name"),
            (&[&long], Choice::Auto, "tools[0].function.name"),
        ];
        for (names, choice, expected) in cases {
            match plan(&declare(names), &choice) {
                Err(ApiError::Invalid { param, .. }) => assert_eq!(param.as_deref(), Some(expected)),
                other => panic!("{names:?} {choice:?}: {other:?}"),
            }
        }
    }
}
