//! What is asked of the hub: the list of a repository's files, the hash of one, and its bytes from some point on.
//!
//! hf-hub serves for the layout of the cache only: its own client carries its certificate authorities with it (0.5), so
//! that it fails where a company's proxy opens TLS, or brings 225 crates (1.0).

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode, header};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::{HubEnv, RepoId};
use crate::outbound;

/// Longest silence of the hub.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest list of files.
const MAX_LIST_BYTES: u64 = 16 << 20;
const MAX_REDIRECTS: usize = 5;

/// Asks the hub, or a mirror, for the files of one repository.
pub(super) struct Client {
    /// Follows redirects, as those to where the large files are.
    agent: Agent,
    /// Does not: the headers that matter are the hub's own.
    direct: Agent,
    endpoint: String,
    authorization: Option<String>,
    repo: String,
    revision: String,
}

/// What the hub says of a file.
pub(super) struct RemoteFile {
    pub(super) repo: String,
    pub(super) name: String,
    /// Commit of the revision.
    pub(super) commit: String,
    /// SHA-256 of a large file, git's SHA-1 of a small one.
    pub(super) hash: String,
    pub(super) size: u64,
    url: String,
}

/// Why bytes did not come.
pub(super) enum Refused {
    /// Trying again may help.
    ForNow(anyhow::Error),
    ForGood(anyhow::Error),
}

impl Client {
    pub(super) fn new(env: &HubEnv, repo: RepoId) -> Result<Self> {
        // A token goes to the hub and not to where it sends us.
        let agent = || {
            let auth = RedirectAuthHeaders::SameHost;
            anyhow::Ok(
                outbound::agent()?
                    .http_status_as_error(false)
                    .redirect_auth_headers(auth)
                    .timeout_per_read(Some(SILENCE)),
            )
        };
        Ok(Self {
            agent: agent()?.build().into(),
            direct: agent()?.max_redirects(0).max_redirects_will_error(false).build().into(),
            endpoint: env.endpoint.clone(),
            authorization: env.token.as_ref().map(|token| format!("Bearer {token}")),
            repo: repo.name.to_owned(),
            revision: repo.revision.to_owned(),
        })
    }

    /// Names of all files.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let revision = self.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, self.repo);
        let what = || format!("cannot list the files of {}@{}", self.repo, self.revision);
        let mut answer = self.with_token(self.agent.get(&url)).call().map_err(failed).with_context(what)?;
        check_status(&answer).with_context(what)?;
        let body = answer.body_mut().with_config().limit(MAX_LIST_BYTES).read_to_string();
        let json: Value = serde_json::from_str(&body.with_context(what)?)
            .with_context(|| format!("{url} did not answer in JSON"))?;
        let siblings = json["siblings"].as_array().with_context(|| format!("{url} lists no files"))?;
        Ok(siblings.iter().filter_map(|file| file["rfilename"].as_str().map(str::to_owned)).collect())
    }

    /// Asks for the hash and the size of a file.
    pub(super) fn look_up(&self, name: &str) -> Result<RemoteFile> {
        let revision = self.revision.replace('/', "%2F");
        let url = format!("{}/{}/resolve/{revision}/{name}", self.endpoint, self.repo);
        let (url, answer) =
            self.head(url).with_context(|| format!("cannot look up {name} of {}", self.repo))?;
        let header = |names: [&str; 2]| {
            let found = names.into_iter().find_map(|name| answer.headers().get(name));
            let text = found.and_then(|value| value.to_str().ok()).map(|text| text.trim_start_matches("W/"));
            text.map(|text| text.trim_matches('"').to_owned())
        };
        let missing = |what: &str| format!("{url} gives no {what}: neither the hub nor a mirror of it");
        let hash = header(["x-linked-etag", "etag"]).with_context(|| missing("ETag"))?;
        ensure!(
            hash.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !hash.is_empty(),
            "{url} gives '{hash}' as ETag, expected a hash"
        );
        let size = header(["x-linked-size", "content-length"]).and_then(|size| size.parse().ok());
        Ok(RemoteFile {
            commit: header(["x-repo-commit"; 2]).with_context(|| missing("X-Repo-Commit"))?,
            size: size.with_context(|| missing("size"))?,
            repo: self.repo.clone(),
            name: name.to_owned(),
            hash,
            url,
        })
    }

    /// The head of a file, and its URL after what was renamed within the hub.
    fn head(&self, mut url: String) -> Result<(String, Response<Body>)> {
        for _ in 0..MAX_REDIRECTS {
            let request = self.direct.head(&url).header(header::ACCEPT_ENCODING, "identity");
            let answer = self.with_token(request).call().map_err(failed)?;
            let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            match location.filter(|to| to.starts_with('/') && !to.starts_with("//")) {
                Some(path) if answer.status().is_redirection() => url = format!("{}{path}", origin(&url)),
                _ if answer.status().is_redirection() => return Ok((url, answer)),
                _ => {
                    check_status(&answer)?;
                    return Ok((url, answer));
                }
            }
        }
        bail!("{url} leads in a circle")
    }

    /// The bytes of a file from `start` on, and whether they are that: some servers send the whole file.
    pub(super) fn bytes(
        &self,
        remote: &RemoteFile,
        start: u64,
    ) -> Result<(impl Read + use<>, bool), Refused> {
        let request = self.agent.get(&remote.url).header(header::RANGE, format!("bytes={start}-"));
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        let answer = self.with_token(request).call().map_err(|error| Refused::ForNow(failed(error)))?;
        check_status(&answer).map_err(|error| match answer.status().is_server_error() {
            true => Refused::ForNow(error),
            false => Refused::ForGood(error),
        })?;
        let is_part = answer.status() == StatusCode::PARTIAL_CONTENT;
        Ok((answer.into_body().into_reader(), is_part))
    }

    fn with_token(&self, request: RequestBuilder<WithoutBody>) -> RequestBuilder<WithoutBody> {
        match &self.authorization {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization),
            None => request,
        }
    }
}

fn check_status(answer: &Response<Body>) -> Result<()> {
    let status = answer.status();
    let advice = match status.as_u16() {
        401 | 403 => ": the repository is private, gated or misspelt; HF_TOKEN is the variable for a token",
        404 => ": there is no such repository, revision or file",
        407 => ": the proxy wants a user and a password, in the URL in HTTPS_PROXY",
        _ => "",
    };
    ensure!(status.is_success(), "the answer is {status}{advice}");
    Ok(())
}

fn failed(error: ureq::Error) -> anyhow::Error {
    let advice = outbound::advice(&error);
    anyhow::anyhow!("{error}{advice}")
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find('/').map_or(url.len(), |path| host + path);
    &url[..end]
}
