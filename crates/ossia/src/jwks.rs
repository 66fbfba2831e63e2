//! The public keys of an OpenID provider, from a file or from the URL that the settings name.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ossia_server::{Access, TokenRules};

use crate::cli::AccessArgs;
use crate::{outbound, watch};

/// How often a URL is asked.
const INTERVAL: Duration = Duration::from_secs(600);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer.
const MAX_BYTES: u64 = 1 << 20;

/// Where the keys of a provider are, and which of its tokens are good.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    rules: TokenRules,
    jwks: String,
}

impl Provider {
    /// The provider that the settings name, if they do.
    pub(crate) fn from_args(args: &AccessArgs) -> Option<Self> {
        let rules = TokenRules {
            issuer: args.oidc_issuer.clone()?,
            audience: args.oidc_audience.clone()?,
            tenant_claim: args.oidc_tenant_claim.clone(),
        };
        Some(Self { rules, jwks: args.oidc_jwks.clone()? })
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
            .with_context(|| format!("cannot use the keys of {}", self.jwks))
    }

    /// Keeps the keys up to date, for as long as the future is polled. If that fails those before stay in force.
    pub(crate) async fn keep(self, access: Access) {
        if !self.is_url() {
            let paths = vec![PathBuf::from(&self.jwks)];
            return watch::on_change(paths, move || self.note(self.load(&access))).await;
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            let (provider, access) = (self.clone(), access.clone());
            // The task does not panic; a runtime that shuts down ends this one as well.
            if let Ok(outcome) = tokio::task::spawn_blocking(move || provider.load(&access)).await {
                self.note(outcome);
            }
        }
    }

    fn note(&self, outcome: Result<()>) {
        match outcome {
            Ok(()) => tracing::info!("read the keys of {} anew", self.jwks),
            Err(error) => tracing::error!("the keys of the OpenID provider stay as they were: {error:#}"),
        }
    }

    fn is_url(&self) -> bool {
        self.jwks.starts_with("https://") || self.jwks.starts_with("http://")
    }
}

fn fetch(url: &str) -> Result<String> {
    if let Some(switch) = outbound::offline() {
        bail!("--oidc-jwks is {url}, and {switch} is set, so it is not asked: give a file with the keys");
    }
    let agent: ureq::Agent = outbound::agent()?.timeout_global(Some(TIMEOUT)).build().into();
    let answer = agent.get(url).call();
    let mut answer = answer
        .map_err(|error| anyhow::anyhow!("{error}{}", outbound::advice(&error)))
        .with_context(|| format!("cannot fetch the keys at {url}"))?;
    answer
        .body_mut()
        .with_config()
        .limit(MAX_BYTES)
        .read_to_string()
        .with_context(|| format!("cannot read what {url} sent"))
}
