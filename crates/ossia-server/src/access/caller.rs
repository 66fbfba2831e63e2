//! Who sent a request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use super::admission::Admission;
use super::keys::KeySpec;
use super::limits::Meters;
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::Tenant;
use crate::traces::RequestSpan;

/// Whoever sent a request: the holder of a key, or anybody where none is needed.
#[derive(Clone)]
pub(crate) struct Caller {
    holder: Option<Arc<KeyHolder>>,
    request: Arc<RequestName>,
}

/// What a request is called in logs.
#[derive(Debug, Default)]
pub(super) struct RequestName {
    /// `x-request-id`.
    pub(super) id: String,
    /// Method and route.
    pub(super) route: String,
    /// What is told of it to whoever collects traces.
    pub(super) span: RequestSpan,
}

/// The holder of a key.
pub(super) struct KeyHolder {
    pub(super) tenant: Tenant,
    /// The tenant as the engine knows it.
    pub(super) number: u32,
    pub(super) spec: Arc<KeySpec>,
    pub(super) meters: Arc<Meters>,
}

impl Caller {
    /// Somebody on a server without keys.
    pub(crate) fn anybody() -> Self {
        Self { holder: None, request: Arc::default() }
    }

    pub(super) fn holder(holder: KeyHolder) -> Self {
        Self { holder: Some(Arc::new(holder)), request: Arc::default() }
    }

    /// The caller with the name of its request.
    pub(super) fn with_request(self, request: RequestName) -> Self {
        Self { request: Arc::new(request), ..self }
    }

    /// `x-request-id` of the request.
    pub(crate) fn request_id(&self) -> &str {
        &self.request.id
    }

    /// Method and route of the request.
    pub(crate) fn request(&self) -> &str {
        &self.request.route
    }

    /// The span of the request.
    pub(super) fn span(&self) -> &RequestSpan {
        &self.request.span
    }

    /// Whose state this caller sees.
    pub(crate) fn tenant(&self) -> Tenant {
        self.holder.as_ref().map_or_else(|| Tenant("".into()), |holder| holder.tenant.clone())
    }

    /// The tenant as the engine knows it.
    pub(crate) fn tenant_number(&self) -> u32 {
        self.holder.as_ref().map_or(0, |holder| holder.number)
    }

    /// The id of the key; empty without one.
    pub(crate) fn key_id(&self) -> &str {
        self.holder.as_ref().map_or("", |holder| &holder.spec.id)
    }

    /// Counts a request for `model` that generates.
    ///
    /// # Errors
    /// 403 if the key is not for this model, 429 if a limit is reached, 503 if the server is shutting down.
    pub(crate) fn admit(&self, state: &AppState, model: &str) -> Result<Admission, ApiError> {
        if !state.admits() {
            return Err(ApiError::Unavailable { reason: "the server is shutting down".to_owned() });
        }
        if !self.may_use(model) {
            return Err(ApiError::ModelForbidden { model: model.to_owned() });
        }
        if let Some(holder) = &self.holder {
            holder.meters.begin(&holder.spec, Instant::now())?;
        }
        Ok(Admission::new(self.clone(), state, model))
    }

    /// Whether the key is for this model.
    pub(crate) fn may_use(&self, model: &str) -> bool {
        let models = self.holder.as_ref().map_or(&[][..], |holder| &holder.spec.models);
        models.is_empty() || models.iter().any(|allowed| allowed == model)
    }

    /// Refuses whoever may not see what concerns all tenants.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn must_be_admin(&self) -> Result<(), ApiError> {
        match &self.holder {
            Some(holder) if !holder.spec.admin => Err(ApiError::AdminOnly),
            _ => Ok(()),
        }
    }

    /// How urgent a request is that gives itself `wanted`: lower is served first.
    pub(crate) fn priority(&self, wanted: i32) -> i32 {
        match &self.holder {
            Some(holder) => holder.spec.priority.saturating_add(wanted.max(0)),
            None => wanted,
        }
    }

    /// Keeps the cached prefixes of tenants apart: how fast an answer begins must not tell what others asked.
    pub(crate) fn cache_salt(&self, wanted: Option<&str>) -> Option<String> {
        match &self.holder {
            // The length makes the pair unambiguous.
            Some(holder) => {
                Some(format!("{}:{}{}", holder.tenant.0.len(), holder.tenant.0, wanted.unwrap_or_default()))
            }
            None => wanted.map(str::to_owned),
        }
    }

    /// Counts tokens that were computed.
    pub(crate) fn take_tokens(&self, num_tokens: usize) {
        if let Some(holder) = &self.holder {
            holder.meters.take_tokens(num_tokens, Instant::now());
        }
    }

    /// A request that was admitted is over.
    pub(super) fn end(&self) {
        if let Some(holder) = &self.holder {
            holder.meters.end();
        }
    }

    /// Tells in an answer what is left of the limits.
    pub(crate) fn write_limits(&self, headers: &mut HeaderMap) {
        if let Some(holder) = &self.holder {
            holder.meters.write(&holder.spec, headers, Instant::now());
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    /// Whoever the layer found, or anybody.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(Self::anybody))
    }
}
