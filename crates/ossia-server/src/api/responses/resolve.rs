//! From what a request refers to, to what it means: earlier responses and conversations, items by their ids, and
//! what the client carried sealed.

use crate::error::ApiError;
use crate::prepare::items::input_items;
use crate::seal::{COMPACTION, REASONING};
use crate::state::AppState;
use crate::store::{History, Tenant};
use crate::wire::content::ContentPart;
use crate::wire::poly::{TextOrList, TextOrObject};
use crate::wire::responses::{ConversationParam, InputItem, ResponseInput, ResponseRequest};

/// What came before the turn.
///
/// # Errors
/// 400 naming the field if what it names is not there.
pub(super) async fn history(
    request: &ResponseRequest,
    tenant: &Tenant,
    state: &AppState,
) -> Result<History, ApiError> {
    let store = state.store();
    match (&request.previous_response_id, &request.conversation) {
        (None, None) => Ok(History::new(state.current_date())),
        (Some(_), Some(_)) => {
            let message = "'previous_response_id' and 'conversation' cannot be used together.";
            Err(ApiError::invalid("previous_response_id", "mutually_exclusive_parameters", message))
        }
        (Some(id), None) => match store.history_after(tenant, id).await? {
            Some(history) => Ok(history),
            None => Err(previous_missing(id, store.response(tenant, id).await?.is_some())),
        },
        (None, Some(conversation)) => {
            let id = conversation_id(conversation);
            let found = store.conversation_history(tenant, id).await?;
            found.ok_or_else(|| {
                let message = format!("Conversation with id '{id}' not found.");
                ApiError::invalid("conversation", "conversation_not_found", message)
            })
        }
    }
}

/// What a request is told that continues a response which is not there, or not finished.
fn previous_missing(id: &str, unfinished: bool) -> ApiError {
    let (code, message) = if unfinished {
        let message =
            format!("Previous response with id '{id}' is still under way and cannot be continued yet.");
        ("previous_response_not_finished", message)
    } else {
        ("previous_response_not_found", format!("Previous response with id '{id}' not found."))
    };
    ApiError::invalid("previous_response_id", code, message)
}

fn conversation_id(conversation: &ConversationParam) -> &str {
    match conversation {
        TextOrObject::Text(id) => id,
        TextOrObject::Object(object) => &object.id,
    }
}

/// The input with every reference replaced by its item and everything sealed opened.
///
/// # Errors
/// 400 naming the item that is not stored or that was tampered with.
pub(crate) async fn input(
    input: Option<ResponseInput>,
    tenant: &Tenant,
    state: &AppState,
) -> Result<Vec<InputItem>, ApiError> {
    let mut items = input_items(input)?;
    for (i, item) in items.iter_mut().enumerate() {
        if let Some(id) = item.reference() {
            let found = state.store().item(tenant, id).await?;
            *item = found.ok_or_else(|| {
                let message = format!("Item with id '{id}' not found.");
                ApiError::invalid(format!("input[{i}].id"), "item_not_found", message)
            })?;
        } else {
            open(&format!("input[{i}]"), item, tenant, state)?;
        }
    }
    Ok(items)
}

/// Opens what a client brings back sealed. What is sealed counts, whatever else the item says.
pub(crate) fn open(
    param: &str,
    item: &mut InputItem,
    tenant: &Tenant,
    state: &AppState,
) -> Result<(), ApiError> {
    let kind = match item.kind.as_deref() {
        Some("reasoning") => REASONING,
        Some("compaction") => COMPACTION,
        _ => return Ok(()),
    };
    let Some(sealed) = &item.encrypted_content else {
        return match kind {
            COMPACTION => Err(ApiError::missing(format!("{param}.encrypted_content"))),
            _ => Ok(()),
        };
    };
    let text = state.sealer().open(tenant, kind, sealed).map_err(|broken| {
        let id = item.id.as_deref().unwrap_or_default();
        let message = format!(
            "Invalid '{param}.encrypted_content': {broken}. Expected the encrypted content of item '{id}' as this server returned it."
        );
        ApiError::invalid(format!("{param}.encrypted_content"), "invalid_encrypted_content", message)
    })?;
    let part = |kind: &str| ContentPart { kind: kind.to_owned(), text: Some(text.clone()), refusal: None };
    if kind == REASONING {
        item.content = Some(TextOrList::List(vec![part("reasoning_text")]));
    } else {
        item.summary = Some(vec![part("summary_text")]);
    }
    Ok(())
}
