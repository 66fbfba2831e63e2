//! Responses that are stored, continued, sealed, deleted and dropped.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ossia_server::{Store, StoreOptions, StoreTarget};
use serde_json::{Value, json};

use crate::common::TestServer;
use crate::common::stores::stores;
use crate::{PATH, RULES, ask, each, last_text, path_of, weather_tool};

#[tokio::test]
async fn responses_outlive_the_server() {
    each(async |store| {
        let tools = json!({"tools": [weather_tool()]});
        let server = store.server(RULES);
        let sum = server.ok(PATH, &ask("sum", json!({}))).await;
        let call = server.ok(PATH, &ask("Weather?", tools.clone())).await;
        let other = server.ok(PATH, &ask("sum", json!({"store": false}))).await;
        drop(server);

        let server = store.server(RULES);
        assert_eq!(server.read(&path_of(&sum)).await, sum);
        assert_eq!(server.get(&path_of(&other)).await.status, 404);
        let items = server.read(&format!("{}/input_items", path_of(&sum))).await;
        assert_eq!(items["data"][0]["content"][0], json!({"type": "input_text", "text": "sum"}));
        let call_id = &call["output"].as_array().unwrap().last().unwrap()["call_id"];
        let result = json!([{"type": "function_call_output", "call_id": call_id, "output": "Rain"}]);
        let mut fields = tools;
        fields["previous_response_id"] = call["id"].clone();
        let next = server.ok(PATH, &ask(result, fields)).await;
        assert_eq!(last_text(&next), "The tool says: Rain");
        let reference = json!([{"type": "item_reference", "id": sum["output"][1]["id"]}, {"role": "user", "content": "hi"}]);
        server.ok(PATH, &ask(reference, json!({}))).await;
    })
    .await;
}

#[tokio::test]
async fn a_chain_survives_the_deletion_of_its_middle() {
    each(async |store| {
        let server = store.server("[]");
        let mut turns = vec![server.ok(PATH, &ask("first", json!({}))).await];
        for text in ["second", "third"] {
            let previous = json!({"previous_response_id": turns.last().unwrap()["id"]});
            turns.push(server.ok(PATH, &ask(text, previous)).await);
        }
        let tokens = async |previous: &Value| {
            let body = ask("fourth", json!({"previous_response_id": previous["id"]}));
            server.post("/v1/responses/input_tokens", &body).await
        };
        let before = tokens(&turns[2]).await.body["input_tokens"].as_u64().unwrap();
        assert!(before > turns[2]["usage"]["input_tokens"].as_u64().unwrap());
        for turn in &turns[..2] {
            let deleted = server.delete(&path_of(turn)).await;
            assert_eq!(deleted.body, json!({"id": turn["id"], "object": "response", "deleted": true}));
            assert_eq!(server.get(&path_of(turn)).await.status, 404);
            assert_eq!(server.delete(&path_of(turn)).await.status, 404);
            let error = tokens(turn).await;
            assert_eq!(
                (error.status.as_u16(), &error.body["error"]["code"]),
                (400, &json!("previous_response_not_found"))
            );
        }
        assert_eq!(tokens(&turns[2]).await.body["input_tokens"], before);
    })
    .await;
}

#[tokio::test]
async fn sealed_reasoning_comes_back() {
    each(async |store| {
        let server = store.server(RULES);
        let include = json!({"include": ["reasoning.encrypted_content"], "store": false});
        let streamed = server.stream(PATH, &ask("sum", include.clone())).await;
        let response = &streamed.last().unwrap().data["response"];
        let reasoning = &response["output"][0];
        let sealed = reasoning["encrypted_content"].as_str().unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(sealed.strip_prefix("ossia1.").unwrap()).unwrap();
        assert!(!bytes.windows(4).any(|bytes| bytes == b"plus"));
        let plain = server.ok(PATH, &ask("sum", json!({}))).await;
        assert!(plain["output"][0].get("encrypted_content").is_none());

        // Inside a tool loop, so that the chain of thought is shown to the model again.
        let count = async |reasoning: Value| {
            let items = json!([{"role": "user", "content": "x"}, reasoning,
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "r"}]);
            server.post("/v1/responses/input_tokens", &ask(items, json!({}))).await
        };
        let open = count(json!({"type": "reasoning", "id": "rs_1", "summary": [],
            "content": [{"type": "reasoning_text", "text": "17 plus 25."}]}))
        .await;
        let closed =
            count(json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}))
                .await;
        let without = count(json!({"type": "reasoning", "id": "rs_1", "summary": []})).await;
        assert_eq!(open.body["input_tokens"], closed.body["input_tokens"]);
        assert!(without.body["input_tokens"].as_u64() < open.body["input_tokens"].as_u64());

        let tampered = sealed.replace(&sealed[40..44], "AAAA");
        let refused =
            count(json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": tampered}))
                .await;
        let error = &refused.body["error"];
        assert_eq!((refused.status.as_u16(), &error["param"]), (400, &json!("input[1].encrypted_content")));
        assert_eq!(error["code"], "invalid_encrypted_content");
        assert!(error["message"].as_str().unwrap().contains("rs_1"));
    })
    .await;
}

#[tokio::test]
async fn what_is_too_old_or_too_much_goes() {
    each(async |store| {
        let kept = async |server: &TestServer, made: &[Value]| {
            let mut kept = Vec::new();
            for (i, response) in made.iter().enumerate() {
                if server.get(&path_of(response)).await.status == 200 {
                    kept.push(i);
                }
            }
            kept
        };
        // Each response takes some 2 kB; a bound of 9 kB keeps the last few, and a chain whole.
        let small = StoreOptions { max_bytes: 9_000, ..StoreOptions::default() };
        let server = store.server_with("[]", store.open(small));
        let mut made = Vec::new();
        for _ in 0..8 {
            made.push(server.ok(PATH, &ask("hello", json!({}))).await);
        }
        let found = kept(&server, &made).await;
        assert!(!found.is_empty() && found.len() < 8, "{found:?}");
        assert_eq!(found, (8 - found.len()..8).collect::<Vec<_>>());
        drop(server);

        let old = StoreOptions { ttl: Duration::ZERO, ..StoreOptions::default() };
        let store_of_old = store.open(old);
        let server = store.server_with("[]", store_of_old.clone());
        tokio::time::sleep(Duration::from_millis(1100)).await;
        store_of_old.sweep().await.unwrap();
        assert!(kept(&server, &made).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_failed_and_not_completed() {
    each(async |store| {
        let server = store.server(RULES);
        server.ok(PATH, &ask("sum", json!({}))).await;
        let sql = "ALTER TABLE items RENAME TO gone";
        match &store.target {
            StoreTarget::Postgres(url) => {
                let pool = sqlx::PgPool::connect(url).await.unwrap();
                sqlx::query(sql).execute(&pool).await.unwrap();
            }
            StoreTarget::Sqlite(path) => {
                let pool = sqlx::SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
                sqlx::query(sql).execute(&pool).await.unwrap();
            }
            StoreTarget::Memory | StoreTarget::Nothing => unreachable!("stores() makes neither"),
        }
        let events = server.stream(PATH, &ask("sum", json!({}))).await;
        let last = events.last().unwrap();
        assert_eq!(last.name, "response.failed");
        assert_eq!(last.data["response"]["error"]["code"], "server_error");
        assert_eq!(server.get(&path_of(&last.data["response"])).await.status, 404);
        assert_eq!(server.post(PATH, &ask("sum", json!({}))).await.status, 503);
        assert_eq!(server.post(PATH, &ask("sum", json!({"background": true}))).await.status, 503);
        let unstored = server.ok(PATH, &ask("sum", json!({"store": false}))).await;
        assert_eq!(unstored["status"], "completed");
    })
    .await;
}

#[tokio::test]
async fn without_a_store_nothing_is_found_again() {
    let target = StoreTarget::Nothing;
    for store in stores().into_iter().take(1) {
        let server = store.server_with(RULES, Store::new(target.clone(), StoreOptions::default()));
        let response = server.ok(PATH, &ask("sum", json!({}))).await;
        assert_eq!(response["store"], false);
        assert_eq!(server.get(&path_of(&response)).await.status, 404);
        let next = server.post(PATH, &ask("x", json!({"previous_response_id": response["id"]}))).await;
        assert_eq!(
            (next.status.as_u16(), &next.body["error"]["param"]),
            (400, &json!("previous_response_id"))
        );
        let background = server.post(PATH, &ask("x", json!({"background": true}))).await;
        assert_eq!(
            (background.status.as_u16(), &background.body["error"]["param"]),
            (400, &json!("background"))
        );
        assert_eq!(server.post("/v1/conversations", &json!({})).await.status, 400);
    }
}

#[tokio::test]
async fn ids_that_no_database_takes_are_simply_not_there() {
    each(async |store| {
        let server = store.server("[]");
        for id in ["a%00b".to_owned(), "x".repeat(5000), "%F0%9F%A6%80".to_owned()] {
            for path in ["responses", "conversations", "chat/completions"] {
                assert_eq!(server.get(&format!("/v1/{path}/{id}")).await.status, 404, "{path} {id:.20}");
            }
        }
        let strange = json!([{"role": "user", "id": "a\u{0}b", "content": "nul \u{0} inside"}, {"role": "user", "id": "y".repeat(5000), "content": "x"}]);
        let response = server.ok(PATH, &ask(strange, json!({"metadata": {"a": "\u{0}"}}))).await;
        assert_eq!(server.read(&path_of(&response)).await, response);
        let body = json!({"messages": [{"role": "user", "content": "\u{0}"}], "store": true, "metadata": {"\u{0}": "\u{0}"}});
        server.ok("/v1/chat/completions", &body).await;
        server.read("/v1/chat/completions?model=%00").await;
    })
    .await;
}
