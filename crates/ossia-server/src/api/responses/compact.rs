//! `POST /v1/responses/compact`: a long conversation into what its users said and a sealed summary of the rest, which
//! the model writes itself.

use axum::Json;
use axum::extract::State;
use ossia_harmony::Message;
use serde_json::{Value, json};

use super::events::wire_usage;
use super::prepare;
use crate::access::{Admission, Caller};
use crate::api::page::listed;
use crate::clock;
use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::ids::new_id;
use crate::prepare::TurnPlan;
use crate::seal::COMPACTION;
use crate::state::AppState;
use crate::turn::{EndReason, PartKind, TurnEvent, TurnStarter, Usage};
use crate::wire::responses::{Compaction, InputItem, ResponseRequest};

/// What the model is asked to do at the end of the conversation.
const SUMMARISE: &str = "Summarise this conversation so that it can be continued by somebody who sees only your summary and the user's messages. Keep every fact, decision, name, number, open question and result of a tool that may still matter, and say what was about to be done next. Write nothing but the summary.";

/// Answers with the user's messages and a `compaction` item, which a later request may send in place of all that
/// was before.
pub(crate) async fn compact(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(mut request): ApiJson<ResponseRequest>,
) -> Result<Json<Compaction>, ApiError> {
    let tenant = caller.tenant();
    // What does not fit any more is what compacting is for.
    request.truncation = Some("auto".to_owned());
    if request.previous_response_id.is_some() {
        request.input.get_or_insert_with(|| crate::wire::poly::TextOrList::List(Vec::new()));
    }
    let mut plan = prepare(request, &tenant, &state).await?;
    plan.turn.conversation.messages.push(Message::user(SUMMARISE));
    let (summary, usage) = summarise(plan.turn, caller.admit(&state, &plan.response.model)?, &state).await?;
    let mut output = Vec::new();
    for item in plan.history.items.into_iter().chain(plan.input) {
        output.extend(user_message(item)?);
    }
    output.push(json!({
        "type": "compaction",
        "id": new_id("cmp_"),
        "encrypted_content": state.sealer().seal(&tenant, COMPACTION, &summary),
    }));
    Ok(Json(Compaction {
        id: new_id("resp_"),
        object: "response.compaction",
        created_at: clock::unix_now(),
        output,
        usage: wire_usage(usage),
    }))
}

/// The answer of the model, without its chain of thought.
async fn summarise(
    turn: TurnPlan,
    admission: Admission,
    state: &AppState,
) -> Result<(String, Usage), ApiError> {
    let mut turn = TurnStarter::new(state, admission, turn).await?.start(0)?;
    let (mut summary, mut in_answer) = (String::new(), false);
    while let Some(event) = turn.next().await {
        match event {
            TurnEvent::PartStart(kind) => in_answer = kind == PartKind::Answer,
            TurnEvent::Delta { text, .. } if in_answer => summary.push_str(&text),
            TurnEvent::Finished(end) => {
                return match end.reason {
                    EndReason::Failed(reason) => Err(ApiError::Internal { reason }),
                    _ => Ok((summary, end.usage)),
                };
            }
            _ => {}
        }
    }
    Err(ApiError::Internal { reason: "the turn ended without a last event".to_owned() })
}

/// The item as it stays, if it does: a message of the user.
fn user_message(item: InputItem) -> Result<Option<Value>, ApiError> {
    if item.role.as_deref() != Some("user") {
        return Ok(None);
    }
    let item = serde_json::to_value(item.settled())
        .map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    Ok(Some(listed(item)))
}
