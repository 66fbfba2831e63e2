//! Conversations and stored chat completions.

use serde_json::json;

use crate::{PATH, RULES, ask, each};

#[tokio::test]
async fn conversations_grow_with_their_responses() {
    each(async |store| {
        let server = store.server("[]");
        let body = json!({"metadata": {"topic": "a"}, "items": [{"role": "user", "content": "zero"}]});
        let conversation = server.ok("/v1/conversations", &body).await;
        let path = format!("/v1/conversations/{}", conversation["id"].as_str().unwrap());
        assert_eq!(server.read(&path).await, conversation);
        assert_eq!(conversation["metadata"], json!({"topic": "a"}));

        let first = server.ok(PATH, &ask("one", json!({"conversation": conversation["id"]}))).await;
        assert_eq!(first["conversation"], json!({"id": conversation["id"]}));
        let second = server.ok(PATH, &ask("two", json!({"conversation": {"id": conversation["id"]}}))).await;
        assert!(second["usage"]["input_tokens"].as_u64() > first["usage"]["input_tokens"].as_u64());
        let listed = server.read(&format!("{path}/items?order=asc&limit=100")).await;
        let items = listed["data"].as_array().unwrap();
        let texts: Vec<&str> = items
            .iter()
            .filter(|item| item["role"] == "user")
            .map(|item| item["content"][0]["text"].as_str().unwrap())
            .collect();
        assert_eq!(texts, ["zero", "one", "two"]);
        assert_eq!(items.last().unwrap()["id"], second["output"].as_array().unwrap().last().unwrap()["id"]);

        // What is not found by its id is said in the conversation all the same.
        let unstored = ask("unstored", json!({"conversation": conversation["id"], "store": false}));
        let unstored = server.ok(PATH, &unstored).await;
        assert_eq!(server.get(&format!("{PATH}/{}", unstored["id"].as_str().unwrap())).await.status, 404);
        let newest = server.read(&format!("{path}/items?limit=1")).await;
        assert_eq!(newest["last_id"], unstored["output"].as_array().unwrap().last().unwrap()["id"]);

        // Going on from the first response leaves out what the conversation has heard since.
        let branch = ask("two", json!({"previous_response_id": first["id"]}));
        let branch = server.ok("/v1/responses/input_tokens", &branch).await;
        assert_eq!(branch["input_tokens"], second["usage"]["input_tokens"]);

        let added = json!({"items": [{"type": "message", "role": "user", "content": "three"}]});
        let added = server.ok(&format!("{path}/items"), &added).await;
        let item = format!("{path}/items/{}", added["first_id"].as_str().unwrap());
        assert_eq!(server.read(&item).await, added["data"][0]);
        assert_eq!(server.delete(&item).await.body, conversation);
        assert_eq!(server.get(&item).await.status, 404);

        let updated = server.ok(&path, &json!({"metadata": {"topic": "b"}})).await;
        assert_eq!(updated["metadata"], json!({"topic": "b"}));
        assert_eq!(server.delete(&path).await.body["object"], "conversation.deleted");
        assert_eq!(server.get(&path).await.status, 404);
        let gone = server.post(PATH, &ask("x", json!({"conversation": conversation["id"]}))).await;
        assert_eq!((gone.status.as_u16(), &gone.body["error"]["param"]), (400, &json!("conversation")));
    })
    .await;
}

#[tokio::test]
async fn stored_completions_are_listed_changed_and_deleted() {
    each(async |store| {
        let server = store.server(RULES);
        let path = "/v1/chat/completions";
        let mut made = Vec::new();
        for (i, topic) in ["a", "b", "a"].iter().enumerate() {
            let body = json!({"messages": [{"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": format!("sum {i}")}]}],
                "store": true, "metadata": {"topic": topic}});
            made.push(server.ok(path, &body).await);
        }
        let streamed = server
            .stream(path, &json!({"messages": [{"role": "user", "content": "sum"}], "store": true}))
            .await;
        server.ok(path, &json!({"messages": [{"role": "user", "content": "sum"}]})).await;

        let ids = async |query: &str| {
            let page = server.read(&format!("{path}?{query}")).await;
            let ids =
                page["data"].as_array().unwrap().iter().map(|found| found["id"].clone()).collect::<Vec<_>>();
            (ids, page["has_more"].as_bool().unwrap())
        };
        let id = |i: usize| made[i]["id"].clone();
        let last = streamed[0].data["id"].clone();
        assert_eq!(ids("").await, (vec![id(0), id(1), id(2), last.clone()], false));
        assert_eq!(ids("order=desc&limit=2").await, (vec![last, id(2)], true));
        assert_eq!(ids("metadata[topic]=a").await, (vec![id(0), id(2)], false));
        assert_eq!(ids("metadata%5Btopic%5D=a&limit=1").await, (vec![id(0)], true));
        assert_eq!(
            ids(&format!("metadata[topic]=a&after={}", id(0).as_str().unwrap())).await,
            (vec![id(2)], false)
        );
        assert_eq!(ids("model=other").await, (vec![], false));

        let one = format!("{path}/{}", id(0).as_str().unwrap());
        assert_eq!(server.read(&one).await, made[0]);
        let messages = server.read(&format!("{one}/messages")).await;
        assert_eq!(messages["data"][0]["content"], "Be brief.");
        assert_eq!(messages["data"][1]["content_parts"], json!([{"type": "text", "text": "sum 0"}]));
        let updated = server.ok(&one, &json!({"metadata": {"topic": "c"}})).await;
        assert_eq!(updated["metadata"], json!({"topic": "c"}));
        assert_eq!(ids("metadata[topic]=c").await, (vec![id(0)], false));
        let deleted = server.delete(&one).await;
        assert_eq!(deleted.body, json!({"id": id(0), "object": "chat.completion.deleted", "deleted": true}));
        assert_eq!(server.get(&one).await.status, 404);
    })
    .await;
}

#[tokio::test]
async fn items_of_hosted_tools_stay_as_they_are() {
    each(async |store| {
        let server = store.server("[]");
        let items = json!([
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
            {"type": "code_interpreter_call", "id": "ci_1", "status": "completed", "container_id": "c", "code": "1", "outputs": []},
            {"type": "mcp_list_tools", "id": "mcpl_1", "status": "completed", "server_label": "s", "tools": []},
        ]);
        let conversation = server.ok("/v1/conversations", &json!({"items": items})).await;
        let path = format!("/v1/conversations/{}/items?order=asc", conversation["id"].as_str().unwrap());
        assert_eq!(server.read(&path).await["data"], items);
        let response = server.ok(PATH, &ask("hello", json!({"conversation": conversation["id"]}))).await;
        assert_eq!(response["status"], "completed");
    })
    .await;
}
