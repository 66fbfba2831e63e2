//! What is written down, and what is not.

use serde_json::Value;

use crate::harness::{Server, chat_request};

const SECRET: &str = "xylophone4711";

fn audit(server: &Server) -> Vec<Value> {
    let text = std::fs::read_to_string(server.path("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn prompts_and_credentials_are_in_no_log() {
    let server = Server::start(&["--log", "trace", "--audit-log", "audit.jsonl"]);
    let headers =
        format!("authorization: Bearer {SECRET}key\r\ncookie: a={SECRET}\r\nx-request-id: mine\r\n");
    let text = format!("hi {SECRET}");
    assert_eq!(server.send(&chat_request(&text, false, &headers)).status, 200);
    assert_eq!(server.send(&chat_request(&text, true, &headers)).status, 200);
    let broken = chat_request(&text, true, &headers).replace("\"role\"", "\"rule\"");
    assert_eq!(server.send(&broken).status, 400);
    let (log, records) = (server.wait_for_log("status=400"), audit(&server));
    assert!(
        log.contains("/v1/chat/completions") && log.contains("mine"),
        "the requests themselves are logged"
    );
    assert!(!log.contains(SECRET), "{}", log.lines().find(|line| line.contains(SECRET)).unwrap());
    assert!(!records.iter().any(|record| record.to_string().contains(SECRET)), "{records:?}");
    assert_eq!(records.len(), 3);
    let first = &records[0];
    assert_eq!((&first["request_id"], &first["outcome"][0]), (&"mine".into(), &"stop".into()), "{first}");
    assert!(
        first["prompt_tokens"].as_u64() > Some(10) && first["completion_tokens"].as_u64() > Some(0),
        "{first}"
    );
    assert_eq!((&records[2]["outcome"][0], &records[2]["status"]), (&"refused".into(), &400.into()));
}

#[test]
fn contents_are_in_the_audit_log_if_asked_for() {
    let server = Server::start(&["--audit-log", "audit.jsonl", "--audit-contents", "--log-format", "json"]);
    assert_eq!(server.chat("hi").status, 200);
    let record = &audit(&server)[0];
    assert!(
        record["prompt"].as_str().unwrap().ends_with("<|message|>hi<|end|><|start|>assistant"),
        "{record}"
    );
    assert!(record["answers"][0].as_str().unwrap().contains("hello there"), "{record}");
    for line in server.log().lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["level"].is_string(), "{line}");
    }
}
