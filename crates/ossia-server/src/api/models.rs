//! `/v1/models`: one model under all its names.

use axum::Json;
use axum::extract::State;

use crate::access::Caller;
use crate::error::ApiError;
use crate::extract::ApiPath;
use crate::state::AppState;
use crate::wire::model::{Model, ModelList};

/// All names that the caller may use.
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Json<ModelList> {
    let names = state.config().served_model_names.iter().filter(|name| caller.may_use(name));
    Json(ModelList { object: "list", data: names.map(|name| model(&state, name)).collect() })
}

/// One name; it may hold slashes, as names of repositories do.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    ApiPath(id): ApiPath,
) -> Result<Json<Model>, ApiError> {
    let name = state.resolve_model(Some(&id))?;
    Ok(Json(model(&state, &name)))
}

fn model(state: &AppState, name: &str) -> Model {
    let config = state.config();
    Model {
        id: name.to_owned(),
        object: "model",
        created: config.created,
        owned_by: "ossia".to_owned(),
        max_model_len: state.engine().config().max_model_len,
        root: config.model_root.clone(),
    }
}
