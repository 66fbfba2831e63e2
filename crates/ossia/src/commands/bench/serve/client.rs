//! A small HTTP client: posts a request and notes when each piece of the streamed answer arrives.
//!
//! It opens connections to the `--base-url` that was given and to nothing else.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::stats::{Outcome, Sample};

/// Connections to one API.
#[derive(Clone)]
pub(super) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
    base_url: String,
    api_key: Option<String>,
}

impl Client {
    /// A client of the API at `base_url`, which must be plain HTTP.
    pub(super) fn new(base_url: &str, api_key: Option<&str>) -> Result<Self> {
        ensure!(
            base_url.starts_with("http://"),
            "--base-url is {base_url}, expected one that starts with http://: this client speaks no TLS"
        );
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // Each request has a connection of its own: some servers close idle ones without notice, and a request that
        // meets that fails for no fault of theirs.
        let pool = Pool::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        let base_url = base_url.trim_end_matches('/').to_owned();
        Ok(Self { pool, base_url, api_key: api_key.map(str::to_owned) })
    }

    /// The id of the first model that the server lists.
    pub(super) async fn first_model(&self) -> Result<String> {
        let response = self.send(self.request("GET", "/models", Vec::new())?).await?;
        let response = answered(response).await?;
        let listed: Value = serde_json::from_slice(&whole(response).await?).context("/models is not JSON")?;
        let id = listed["data"][0]["id"].as_str().context("/models lists no model")?;
        Ok(id.to_owned())
    }

    /// Posts `body` and reads the stream of the answer to its end; times count from `due`.
    pub(super) async fn stream(&self, path: &str, body: Vec<u8>, due: Instant) -> Result<Outcome> {
        let response = self.send(self.request("POST", path, body)?).await?;
        if is_refusal(response.status()) {
            whole(response).await?;
            return Ok(Outcome::Refused { after_s: due.elapsed().as_secs_f64() });
        }
        let mut body = answered(response).await?.into_body();
        let mut sample = Sample::default();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the stream broke off")?;
            let now_s = due.elapsed().as_secs_f64();
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            let whole = buffer.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            for line in buffer[..whole].split(|&byte| byte == b'\n') {
                note_line(&mut sample, line, now_s)?;
            }
            buffer.drain(..whole);
        }
        sample.end_s = due.elapsed().as_secs_f64();
        if sample.num_output_tokens == 0 {
            sample.num_output_tokens = sample.arrivals_s.len() as u64;
        }
        Ok(Outcome::Answered(sample))
    }

    fn request(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base_url));
        if let Some(key) = &self.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)));
        request.with_context(|| format!("--base-url {} is not a URL", self.base_url))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let uri = request.uri().clone();
        self.pool.request(request).await.with_context(|| format!("no answer from {uri}"))
    }
}

/// Whether a status says that the server has more to do than it can.
fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// The response, if its status says that it is an answer.
async fn answered(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status != StatusCode::OK {
        let text = whole(response).await.unwrap_or_default();
        bail!("status {status}: {}", String::from_utf8_lossy(&text[..text.len().min(300)]));
    }
    Ok(response)
}

async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    Ok(response.into_body().collect().await.context("the answer broke off")?.to_bytes())
}

/// Takes note of one line of a stream of server-sent events.
fn note_line(sample: &mut Sample, line: &[u8], now_s: f64) -> Result<()> {
    let Some(data) = line.strip_prefix(b"data:") else { return Ok(()) };
    let data = data.trim_ascii();
    if data == b"[DONE]" {
        return Ok(());
    }
    let event: Value = serde_json::from_slice(data).context("an event that is not JSON")?;
    if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
        bail!("error in the stream: {error}");
    }
    if event["choices"].as_array().into_iter().flatten().any(has_output) {
        sample.arrivals_s.push(now_s);
    }
    let usage = &event["usage"];
    if let Some(num_tokens) = usage["completion_tokens"].as_u64() {
        sample.num_output_tokens = num_tokens;
        sample.num_prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or_default();
        sample.num_cached_tokens =
            usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_default();
    }
    Ok(())
}

/// Whether a choice of a chunk carries something that the model said.
fn has_output(choice: &Value) -> bool {
    let some = |value: &Value| match value {
        Value::String(text) => !text.is_empty(),
        Value::Array(calls) => !calls.is_empty(),
        _ => false,
    };
    let delta = &choice["delta"];
    some(&choice["text"])
        || ["content", "reasoning_content", "reasoning", "tool_calls"].iter().any(|name| some(&delta[*name]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_output_are_timed_and_usage_is_counted() {
        let mut sample = Sample::default();
        for (line, now_s) in [
            (r#"data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#, 0.1),
            (r#"data: {"choices": [{"delta": {"reasoning": "so"}}]}"#, 0.2),
            (r#"data: {"choices": [{"delta": {"content": "yes"}}]}"#, 0.3),
            (r#"data: {"choices": [{"text": "no"}]}"#, 0.4),
            (r#"data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}"#, 0.5),
            (r#"data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}"#, 0.6),
            ("data: [DONE]", 0.7),
            (": a comment", 0.8),
        ] {
            note_line(&mut sample, line.as_bytes(), now_s).unwrap();
        }
        assert_eq!(sample.arrivals_s, [0.2, 0.3, 0.4]);
        assert_eq!((sample.num_prompt_tokens, sample.num_output_tokens), (9, 3));
        let error = note_line(&mut sample, br#"data: {"error": {"message": "full"}}"#, 0.9).unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
    }

    #[test]
    fn only_plain_http_is_spoken() {
        assert!(Client::new("http://127.0.0.1:1/v1/", None).is_ok());
        let error = Client::new("https://example.com/v1", None).err().unwrap();
        assert!(error.to_string().contains("--base-url"), "{error}");
    }
}
