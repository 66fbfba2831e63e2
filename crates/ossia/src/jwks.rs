//! The public keys of an OpenID provider, from a file or from the URL that the settings name.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ossia_server::{Access, TokenLimits, TokenRules, without_password};

use crate::cli::AccessArgs;
use crate::{outbound, watch};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer.
const MAX_BYTES: u64 = 1 << 20;

/// Where the keys of a provider are, and which of its tokens are good.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    rules: TokenRules,
    jwks: String,
    /// How often a URL is asked.
    refresh: Duration,
}

impl Provider {
    /// The provider that the settings name, if they do.
    pub(crate) fn from_args(args: &AccessArgs) -> Option<Self> {
        let limits = TokenLimits {
            requests_per_minute: args.oidc_requests_per_minute.map(Into::into),
            tokens_per_minute: args.oidc_tokens_per_minute.map(Into::into),
            max_concurrent: args.oidc_max_concurrent.map(Into::into),
        };
        let rules = TokenRules {
            issuer: args.oidc_issuer.clone()?,
            audience: args.oidc_audience.clone()?,
            tenant_claim: args.oidc_tenant_claim.clone(),
            limits,
        };
        Some(Self { rules, jwks: args.oidc_jwks.clone()?, refresh: args.oidc_refresh.into() })
    }

    /// Puts the provider's keys in force.
    pub(crate) fn load(&self, access: &Access) -> Result<()> {
        let text = match self.is_url() {
            true => fetch(&self.jwks)?,
            false => {
                std::fs::read_to_string(&self.jwks).with_context(|| format!("cannot read {}", self.jwks))?
            }
        };
        access
            .set_tokens(self.rules.clone(), &text)
            .with_context(|| format!("cannot use the keys of {}", without_password(&self.jwks)))
    }

    /// Keeps the keys up to date, for as long as the future is polled. If that fails those before stay in force.
    pub(crate) async fn keep(self, access: Access) {
        if !self.is_url() {
            let paths = vec![PathBuf::from(&self.jwks)];
            return watch::on_change(paths, move || self.note(self.load(&access))).await;
        }
        loop {
            tokio::time::sleep(self.refresh).await;
            let (provider, access) = (self.clone(), access.clone());
            // The task does not panic; a runtime that shuts down ends this one as well.
            if let Ok(outcome) = tokio::task::spawn_blocking(move || provider.load(&access)).await {
                self.note(outcome);
            }
        }
    }

    fn note(&self, outcome: Result<()>) {
        match outcome {
            Ok(()) => tracing::info!("read the keys of {} anew", without_password(&self.jwks)),
            Err(error) => tracing::error!("the keys of the OpenID provider stay as they were: {error:#}"),
        }
    }

    fn is_url(&self) -> bool {
        self.jwks.starts_with("https://") || self.jwks.starts_with("http://")
    }
}

fn fetch(url: &str) -> Result<String> {
    let shown = without_password(url);
    if let Some(switch) = outbound::offline() {
        bail!("--oidc-jwks is {shown}, and {switch} is set, so it is not asked: give a file with the keys");
    }
    let agent: ureq::Agent = outbound::agent()?.timeout_global(Some(TIMEOUT)).build().into();
    let answer = agent.get(url).call();
    let mut answer = answer
        .map_err(|error| anyhow::anyhow!("{error}{}", outbound::advice(&error)))
        .with_context(|| format!("cannot fetch the keys at {shown}"))?;
    answer
        .body_mut()
        .with_config()
        .limit(MAX_BYTES)
        .read_to_string()
        .with_context(|| format!("cannot read what {shown} sent"))
}
