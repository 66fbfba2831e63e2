//! The requests of a load: what they ask for and when they are due. The same seed gives the same load.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use super::args::{BenchServeArgs, Endpoint};

/// Common words, a token each with a space before them.
const WORDS: &str = "time year way day man thing life child world school state family student group country \
    problem hand part place case week company system program question work number night point home water room \
    mother area money story fact month lot right study book eye job word business issue side kind head house \
    service friend father power hour game line end member law car city name president team minute idea kid body \
    information back parent face level office door health person art war history party result change morning \
    reason research girl boy moment air teacher force education foot age policy music market sense nation plan";

/// One request.
pub(super) struct Planned {
    /// When it is due, from the start; a closed loop sends it when a client is free.
    pub(super) due: Duration,
    /// The body to post.
    pub(super) body: Vec<u8>,
}

/// The requests that `args` describe.
pub(super) fn plan(args: &BenchServeArgs, model: &str, num_requests: usize) -> Result<Vec<Planned>> {
    let extra: Value = serde_json::from_str(&args.extra_body).context("--extra-body is not JSON")?;
    let Value::Object(extra) = extra else { bail!("--extra-body is not a JSON object") };
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    let mut rng = StdRng::seed_from_u64(args.seed);
    let prefix = text(&words, args.shared_prefix, &mut rng);
    let mut due = Duration::ZERO;
    let planned = |_| {
        let own_len = args.input_len.draw(&mut rng).saturating_sub(args.shared_prefix);
        let prompt = [prefix.as_str(), &text(&words, own_len, &mut rng)].concat();
        let num_tokens = args.output_len.draw(&mut rng);
        let body = body(args, model, &prompt, num_tokens, &extra).to_string().into_bytes();
        if let Some(rate) = args.rate {
            // Poisson arrivals: the pauses between them are exponential.
            due += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / rate);
        }
        Planned { due, body }
    };
    Ok((0..num_requests).map(planned).collect())
}

fn text(words: &[&str], num_words: usize, rng: &mut StdRng) -> String {
    (0..num_words).flat_map(|_| [words[rng.random_range(0..words.len())], " "]).collect()
}

fn body(
    args: &BenchServeArgs,
    model: &str,
    prompt: &str,
    num_tokens: usize,
    extra: &Map<String, Value>,
) -> Value {
    let mut body = match args.endpoint {
        Endpoint::Chat => json!({"messages": [{"role": "user", "content": prompt}]}),
        Endpoint::Completions => json!({"prompt": prompt}),
    };
    body["model"] = json!(model);
    body["max_tokens"] = json!(num_tokens);
    body["temperature"] = json!(args.temperature);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    if !args.allow_eos {
        body["ignore_eos"] = json!(true);
    }
    for (name, value) in extra {
        body[name] = value.clone();
    }
    body
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: BenchServeArgs,
    }

    fn plan_of(flags: &[&str]) -> Vec<Planned> {
        let flags = [&["bench"], flags].concat();
        plan(&Flags::try_parse_from(flags).unwrap().args, "m", 1000).unwrap()
    }

    fn bodies(planned: &[Planned]) -> Vec<Value> {
        planned.iter().map(|planned| serde_json::from_slice(&planned.body).unwrap()).collect()
    }

    #[test]
    fn arrivals_come_at_the_rate_asked_for_and_not_evenly() {
        let planned = plan_of(&["--rate", "50"]);
        let end_s = planned[999].due.as_secs_f64();
        assert!((17.0..23.0).contains(&end_s), "1000 requests at 50 a second take {end_s} s");
        let pauses = planned.windows(2).map(|pair| (pair[1].due - pair[0].due).as_secs_f64());
        // A share of 1 - 1/e of exponential pauses is shorter than their mean.
        let num_short = pauses.filter(|&pause| pause < 0.02).count();
        assert!((580..690).contains(&num_short), "{num_short}");
        assert!(plan_of(&[]).iter().all(|planned| planned.due.is_zero()));
    }

    #[test]
    fn bodies_are_of_the_lengths_asked_for_and_the_same_for_a_seed() {
        let flags = ["--input-len", "20-30", "--output-len", "5", "--shared-prefix", "10", "--seed", "3"];
        let planned = bodies(&plan_of(&flags));
        assert_eq!(planned, bodies(&plan_of(&flags)));
        let prompt = |body: &Value| body["messages"][0]["content"].as_str().unwrap().to_owned();
        let prefix: Vec<String> = prompt(&planned[0]).split(' ').take(10).map(str::to_owned).collect();
        for body in &planned {
            let words: Vec<String> = prompt(body).split_whitespace().map(str::to_owned).collect();
            assert!((20..=30).contains(&words.len()));
            assert_eq!(words[..10], prefix);
            assert_eq!((&body["max_tokens"], &body["ignore_eos"]), (&json!(5), &json!(true)));
        }
        assert_ne!(prompt(&planned[0]), prompt(&planned[1]));
    }

    #[test]
    fn extra_fields_go_over_ours() {
        let planned = bodies(&plan_of(&["--allow-eos", "--extra-body", r#"{"max_tokens": 9, "top_k": 4}"#]));
        assert_eq!((&planned[0]["max_tokens"], &planned[0]["top_k"]), (&json!(9), &json!(4)));
        assert!(planned[0].get("ignore_eos").is_none());
    }
}
