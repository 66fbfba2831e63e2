//! `ossia bench` on a miniature shape, and `ossia bench serve` against `ossia serve`.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// The demo model behind HTTP; killed when dropped.
struct Server {
    child: Child,
    base_url: String,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ossia"))
            .args(["serve", "--port", "0", "--store", "none", "--threads", "1"])
            .args(flags)
            .env("OSSIA_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let ready = lines.find_map(|line| line.split_once("http://").map(|(_, rest)| rest.to_owned()));
        // Nobody may wait because the log is not read.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, base_url: format!("http://{}", ready.expect("the server ended early")) }
    }

    fn load(&self, flags: &str) -> Output {
        bench(&format!("serve --base-url {} {flags}", self.base_url))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn bench(flags: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
    command.arg("bench").args(flags.split_whitespace()).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_request_of_a_load_is_answered_and_counted() {
    let server = Server::start(&[]);
    let lengths = "--input-len 20-40 --output-len 6 -n 12 -o json";
    for (load, endpoint) in [("-c 3", "chat"), ("--rate 40", "chat"), ("-c 2", "completions")] {
        let json =
            json_of(&server.load(&format!("{load} --endpoint {endpoint} {lengths} --slo e2e=3600000")));
        assert_eq!((&json["num_answered"], &json["num_failed"]), (&json!(12), &json!(0)), "{json}");
        assert_eq!(json["num_output_tokens"], json!(12 * 6), "{json}");
        assert!(json["num_prompt_tokens"].as_u64().unwrap() >= 12 * 20, "{json}");
        assert_eq!(json["goodput_requests_per_s"], json["requests_per_s"], "an hour is enough for each");
        let median = |name: &str| json[name]["p50"].as_f64().unwrap();
        assert!(0.0 < median("ttft_ms") && median("ttft_ms") <= median("e2e_ms"), "{json}");
    }
    let table = server.load("-n 2 --output-len 3");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("2 answered, 0 refused, 0 failed") && table.contains("| ttft |"), "{table}");
}

#[test]
fn a_server_that_refuses_is_reported_with_its_reason() {
    let server = Server::start(&[]);
    let output = server.load("-n 3 --model nonesuch");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("404") && errors.contains("nonesuch"), "{errors}");
    let output = server.load("-n 3 --warmup 0 --model nonesuch");
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && errors.contains("no request was answered"), "{errors}");
}

#[test]
fn refusals_of_a_full_server_are_no_failures() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queue-len", "1"]);
    let json = json_of(&server.load("-c 16 -n 32 --input-len 20 --output-len 40 -o json"));
    let count = |name: &str| json[name].as_u64().unwrap();
    assert_eq!((count("num_answered") + count("num_refused"), count("num_failed")), (32, 0), "{json}");
    assert!(count("num_answered") > 0 && count("num_refused") > 0, "{json}");
    let figure = |name: &str| json["refusal_ms"][name].as_f64().unwrap();
    assert!(0.0 < figure("p50") && figure("p50") <= figure("max"), "{json}");
}

#[test]
fn a_shape_is_measured_in_every_combination() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let shape = r#"{"model_type": "gpt_oss", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0, "rope_theta": 150000,
        "attention_bias": true, "hidden_act": "silu", "tie_word_embeddings": false, "eos_token_id": 2,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": false, "original_max_position_embeddings": 4096},
        "layer_types": ["sliding_attention", "full_attention"]}"#;
    std::fs::write(&config, shape).unwrap();
    let plot = dir.path().join("plot.svg");
    let json = json_of(&bench(&format!(
        "--load-format dummy --hf-config {} -p 20 -n 0,4 -b 1,3 -d 0,40 --chunk 8 -r 2 -o json --plot {}",
        config.display(),
        plot.display()
    )));
    let results = json["results"].as_array().unwrap();
    let cases: Vec<(&str, u64, u64)> = results
        .iter()
        .map(|line| {
            let number = |name: &str| line[name].as_u64().unwrap();
            (line["test"].as_str().unwrap(), number("depth"), number("batch"))
        })
        .collect();
    let expected =
        [("pp20", 0, 1), ("tg4", 0, 1), ("tg4", 0, 3), ("pp20", 40, 1), ("tg4", 40, 1), ("tg4", 40, 3)];
    assert_eq!(cases, expected);
    for line in results {
        assert_eq!(line["samples"].as_array().unwrap().len(), 2, "{line}");
        let ceiling = if line["test"] == "pp20" { "flops_per_s" } else { "roofline_fraction" };
        assert!(line[ceiling].as_f64().unwrap() > 0.0, "{line}");
    }
    assert!(std::fs::read_to_string(plot).unwrap().ends_with("</svg>\n"));
}
