//! A database that goes away and comes back while requests are under way.

#[path = "../../../ossia-server/tests/common/postgres.rs"]
mod postgres;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postgres::Postgres;
use serde_json::Value;

use crate::harness::{Answer, Server, post};

/// Clients that ask one request after the other.
const NUM_CLIENTS: usize = 8;
/// Answers before the database goes, and again after it has come back.
const NUM_ANSWERS: usize = 40;

fn respond(server: &Server) -> Answer {
    server.send(&post("/v1/responses", "", r#"{"input": "hi"}"#))
}

fn id_of(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    body["id"].as_str().unwrap().to_owned()
}

/// Waits until so many of the answers are successes.
fn wait_for(answers: &Mutex<Vec<Answer>>, num_good: usize) {
    while answers.lock().unwrap().iter().filter(|answer| answer.status == 200).count() < num_good {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn postgresql_restarts_under_load_and_nothing_acknowledged_is_lost() {
    let Some(mut postgres) = Postgres::start() else { return };
    let server = Server::start_on(&postgres.database("ossia"));
    let (answers, is_over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..NUM_CLIENTS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let answer = respond(&server);
                    answers.lock().unwrap().push(answer);
                }
            });
        }
        wait_for(&answers, NUM_ANSWERS);
        postgres.stop();
        assert_eq!(server.chat("hi").status, 200, "what is not kept needs no database");
        assert_eq!(server.get("/ready").status, 200);
        postgres.start_again();
        let num_before = answers.lock().unwrap().len();
        wait_for(&answers, num_before + NUM_ANSWERS);
        is_over.store(true, Ordering::Relaxed);
    });
    let answers = answers.into_inner().unwrap();
    for answer in &answers {
        match answer.status {
            200 => {
                assert_eq!(server.get(&format!("/v1/responses/{}", id_of(answer))).status, 200, "{answer:?}")
            }
            503 => {
                assert!(answer.head.contains("retry-after") && answer.body.contains("store"), "{answer:?}")
            }
            _ => panic!("{answer:?}"),
        }
    }
    assert_eq!(server.loads()["num_blocks_used"], 0);
}
