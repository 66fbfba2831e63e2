//! Responses in the background, and streams that are taken up again.

use std::time::Duration;

use ossia_server::StoreOptions;
use serde_json::{Value, json};

use crate::common::TestServer;
use crate::{PATH, RULES, ask, each, last_text, path_of};

/// Asks until the response is no longer under way.
async fn settled(server: &TestServer, path: &str) -> Value {
    loop {
        let response = server.read(path).await;
        if !["queued", "in_progress"].contains(&response["status"].as_str().unwrap()) {
            return response;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stream_can_be_taken_up_again() {
    each(async |store| {
        let server = store.server(RULES);
        for fields in [json!({}), json!({"background": true})] {
            let live = server.stream(PATH, &ask("sum", fields.clone())).await;
            let path = path_of(&live.last().unwrap().data["response"]);
            assert_eq!(server.replay(&format!("{path}?stream=true")).await, live, "{fields}");
            for after in [0, 5, live.len() - 2, live.len() - 1, live.len() + 3] {
                let rest = server.replay(&format!("{path}?stream=true&starting_after={after}")).await;
                assert_eq!(rest, live.get(after + 1..).unwrap_or_default());
            }
        }
        let whole = server.ok(PATH, &ask("sum", json!({}))).await;
        let replayed = server.replay(&format!("{}?stream=true", path_of(&whole))).await;
        assert_eq!(replayed.last().unwrap().data["response"], whole);
    })
    .await;
}

#[tokio::test]
async fn a_background_response_goes_on_alone() {
    each(async |store| {
        let server = store.server(RULES);
        let queued = server.ok(PATH, &ask("steadily", json!({"background": true}))).await;
        assert_eq!(
            (&queued["status"], &queued["background"], &queued["output"]),
            (&json!("queued"), &json!(true), &json!([]))
        );
        let path = path_of(&queued);
        let followed = server.replay(&format!("{path}?stream=true&starting_after=1")).await;
        assert_eq!(followed[0].name, "response.in_progress");
        let done = settled(&server, &path).await;
        assert_eq!(done["status"], "completed");
        assert_eq!(last_text(&done), "one two three four five six seven eight nine ten");
        assert_eq!(followed.last().unwrap().data["response"], done);
        let events = server.replay(&format!("{path}?stream=true")).await;
        assert_eq!(events[0].data["response"], queued);
        assert_eq!(events[1].name, "response.queued");
        assert_eq!(events[2..], followed);
        let again = server.post(&format!("{path}/cancel"), &json!({})).await;
        assert_eq!(again.body, done);
    })
    .await;
}

#[tokio::test]
async fn a_background_response_can_be_cancelled() {
    each(async |store| {
        let server = store.server(RULES);
        let queued = server.ok(PATH, &ask("slowly", json!({"background": true}))).await;
        let path = path_of(&queued);
        let (events, cancelled) =
            tokio::join!(async { server.replay(&format!("{path}?stream=true")).await }, async {
                server.post(&format!("{path}/cancel"), &json!({})).await
            });
        assert_eq!(cancelled.body["status"], "cancelled", "{}", cancelled.body);
        assert_eq!(events.last().unwrap().data["response"], cancelled.body);
        assert_eq!(server.read(&path).await, cancelled.body);
        while server.engine.stats().num_running > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        let sync = server.ok(PATH, &ask("sum", json!({}))).await;
        let refused = server.post(&format!("{}/cancel", path_of(&sync)), &json!({})).await;
        assert_eq!(refused.status, 400);
        assert_eq!(server.post("/v1/responses/resp_none/cancel", &json!({})).await.status, 404);

        let running = server.ok(PATH, &ask("slowly", json!({"background": true}))).await;
        assert_eq!(server.delete(&path_of(&running)).await.status, 200);
        assert_eq!(server.get(&path_of(&running)).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn servers_share_a_store() {
    each(async |store| {
        let (first, second) = (store.server(RULES), store.server(RULES));
        let steady = first.ok(PATH, &ask("steadily", json!({"background": true}))).await;
        let events = second.replay(&format!("{}?stream=true", path_of(&steady))).await;
        assert_eq!(events.last().unwrap().data["response"], first.read(&path_of(&steady)).await);
        assert_eq!(events.last().unwrap().name, "response.completed");
        let next = second.ok(PATH, &ask("sum", json!({"previous_response_id": steady["id"]}))).await;
        assert_eq!(first.read(&path_of(&next)).await, next);

        let slow = first.ok(PATH, &ask("slowly", json!({"background": true}))).await;
        let early = second.post(PATH, &ask("x", json!({"previous_response_id": slow["id"]}))).await;
        assert_eq!(early.body["error"]["code"], "previous_response_not_finished");
        second.delete(&path_of(&slow)).await;
        first.state.keep_house_once().await.unwrap();
        let slow = first.ok(PATH, &ask("slowly", json!({"background": true}))).await;
        let cancelled = second.post(&format!("{}/cancel", path_of(&slow)), &json!({})).await;
        assert_eq!(cancelled.body["status"], "cancelled");
        assert_eq!(first.read(&path_of(&slow)).await, cancelled.body);
        // The server that works on it hears of it when it next looks after its leases.
        assert_eq!(first.state.keep_house_once().await.unwrap(), 1);
        while first.engine.stats().num_running > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_server_left_is_failed() {
    each(async |store| {
        let options = StoreOptions { lease: Duration::ZERO, ..StoreOptions::default() };
        let server = store.server_with(RULES, store.open(options.clone()));
        let running = server.ok(PATH, &ask("slowly", json!({"background": true}))).await;
        // The first server is never heard of again; the second takes its lease for ended.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let second = store.open(options);
        second.sweep().await.unwrap();
        let other = store.server_with(RULES, second);
        let found = other.read(&path_of(&running)).await;
        assert_eq!((&found["status"], &found["error"]["code"]), (&json!("failed"), &json!("server_error")));
        let events = other.replay(&format!("{}?stream=true", path_of(&running))).await;
        assert_eq!(events.last().unwrap().data["response"], found);
    })
    .await;
}
