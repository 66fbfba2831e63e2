//! Tools and the choice among them, common to both APIs: what the prompt shows and what the model may call.

mod choice;
mod declared;
mod plan;

pub(crate) use choice::{Choice, ToolRef, mode};
pub(crate) use declared::{CustomFormat, Declared, Kind, Strict, custom_format};
pub(crate) use plan::plan;

use ossia_harmony::{FunctionTool, ToolNamespace};

use super::ContentRule;
use crate::turn::Callable;

/// What the prompt shows of the tools and what the model may do with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ToolPlan {
    /// Tools of the namespace `functions` in the developer message.
    pub(crate) tools: Vec<FunctionTool>,
    /// Further namespaces there.
    pub(crate) namespaces: Vec<ToolNamespace>,
    /// Those that may be called.
    pub(crate) callable: Vec<Callable>,
    /// What the content of their calls is held to.
    pub(crate) rules: Vec<ContentRule>,
    /// Whether the turn has to end with a call.
    pub(crate) required: bool,
}
