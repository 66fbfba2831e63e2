//! `ossia doctor`: would `serve` start with these settings, and what would fit? Everything is tried, nothing is changed.

mod kernels;

use std::fmt::Display;
use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Result, bail};
use ossia_kernels::{ComputeType, Isa};

use self::kernels::KernelReport;
use crate::cli::{DoctorArgs, ServeArgs};
use crate::commands::serve::Setup;
use crate::config::{Setting, Source};
use crate::hub::{self, HubEnv, RepoId, checksums};
use crate::listen::Listener;
use crate::load;
use crate::outbound;
use crate::plan::MemoryPlan;
use crate::source::ModelSource;

/// What was found so far.
#[derive(Default)]
struct Findings {
    num_failed: usize,
}

impl Findings {
    /// Says what came of looking at `what`.
    fn note<T: Display>(&mut self, what: &str, found: Result<T>) -> Result<()> {
        match found {
            Ok(text) => writeln!(stdout(), "ok     {what:<14} {text}")?,
            Err(error) => {
                self.num_failed += 1;
                writeln!(stdout(), "FAILED {what:<14} {error:#}")?;
            }
        }
        Ok(())
    }
}

/// Looks at everything; an error if anything would keep `serve` from starting.
pub(crate) fn run(doctor: &DoctorArgs, settings: &[Setting]) -> Result<()> {
    let args = &doctor.serve;
    let mut findings = Findings::default();
    findings.note("configuration", Ok(layers(settings)))?;
    findings.note("processor", processor(args))?;
    check_model(args, &mut findings)?;
    findings.note("setup", Setup::new(args).and_then(|setup| try_setup(args, &setup)))?;
    findings.note("address", try_address(args))?;
    if doctor.kernels {
        check_kernels(doctor, &mut findings)?;
    }
    match findings.num_failed {
        0 => Ok(()),
        failed => bail!("{failed} of these would keep the server from starting, or from being right"),
    }
}

/// The ops of the device, with a table of what each did.
fn check_kernels(args: &DoctorArgs, findings: &mut Findings) -> Result<()> {
    let backend = args.serve.model.kept.device.backend(ComputeType::Bf16);
    match backend.and_then(|backend| KernelReport::new(&backend, args.seed)) {
        Ok(report) => {
            findings.note("kernels", report.verdict())?;
            Ok(writeln!(stdout(), "\n{report}")?)
        }
        Err(error) => findings.note::<&str>("kernels", Err(error)),
    }
}

fn layers(settings: &[Setting]) -> String {
    let count = |is: fn(&Source) -> bool| settings.iter().filter(|setting| is(&setting.source)).count();
    let of_file = settings.iter().find_map(|setting| match &setting.source {
        Source::File { path, .. } => Some(path.display().to_string()),
        _ => None,
    });
    format!(
        "{} settings: {} from {}, {} from variables, {} from flags, the others built in or not set",
        settings.len(),
        count(|source| matches!(source, Source::File { .. })),
        of_file.as_deref().unwrap_or("a file"),
        count(|source| matches!(source, Source::Variable(_))),
        count(|source| matches!(source, Source::Flag(_))),
    )
}

fn processor(args: &ServeArgs) -> Result<String> {
    load::set_threads(&args.model.threads)?;
    Ok(format!("{} threads, matrix products with {}", ossia_kernels::num_threads(), Isa::in_full()))
}

/// Files, hashes, shapes, and whether it fits.
fn check_model(args: &ServeArgs, findings: &mut Findings) -> Result<()> {
    match &args.model.model {
        ModelSource::Scripted(_) => {
            return findings
                .note("model", load::scripted_rules(&args.model.model).map(|()| "rules instead of a model"));
        }
        ModelSource::Hub(name) => {
            let (repo, env) = (RepoId { name, revision: &args.model.revision }, HubEnv::from_env());
            match (hub::cached(repo, &env), outbound::offline()) {
                (Some(dir), _) => findings.note("model files", check_hashes(&dir))?,
                (None, None) => {
                    let text = format!("{name} is not in the cache, or not whole: `serve` will download it");
                    return findings.note("model files", Ok(text));
                }
                // `pull` says what is missing, and contacts nobody.
                (None, Some(_)) => return findings.note("model files", hub::pull(repo, &env).map(|_| "")),
            }
        }
        ModelSource::Directory(dir) => findings.note("model files", check_hashes(dir))?,
        ModelSource::Demo => findings.note("model files", Ok("inside the program"))?,
    }
    let (model, device) = match load::planned(&args.model, &args.engine) {
        Ok(planned) => planned,
        Err(error) => return findings.note::<&str>("model", Err(error)),
    };
    let config = model.config();
    let shape = format!(
        "{} layers, {} experts, {} positions, every tensor as config.json says",
        config.num_hidden_layers, config.num_local_experts, config.max_position_embeddings
    );
    findings.note("model", Ok(shape))?;
    findings.note("device", Ok(model.runs_on()))?;
    let plan = MemoryPlan::new(&model, &args.engine, device);
    findings.note("memory", plan.and_then(|plan| check_memory(&plan, args)))
}

fn check_memory(plan: &MemoryPlan, args: &ServeArgs) -> Result<String> {
    let MemoryPlan { weights, kv_cache, available, .. } = plan;
    let available = available.map_or_else(|| "an unknown amount".to_owned(), |bytes| bytes.to_string());
    let sizes = format!("weights {weights}, KV cache {kv_cache}, available {available}");
    if plan.is_too_much() {
        bail!("{sizes}: give --kv-cache-memory less, or --max-model-len and --max-num-seqs");
    }
    Ok(format!("{sizes}; at the same time fit {}", plan.what_fits(args.engine.max_model_len)))
}

fn check_hashes(dir: &Path) -> Result<String> {
    let Some(verdicts) = checksums::verify(dir)? else {
        return Ok(format!("{} (no hashes to compare with)", dir.display()));
    };
    let num_files = verdicts.len();
    match verdicts.into_iter().find_map(|verdict| verdict.fault) {
        None => Ok(format!("{}: the hashes of {num_files} files are right", dir.display())),
        Some(fault) => Err(fault),
    }
}

fn try_setup(args: &ServeArgs, setup: &Setup) -> Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(setup.store.open())?;
    let access = if setup.access.is_required() { "with keys" } else { "open to everybody who reaches it" };
    let tls = match (&args.http.tls_cert, &args.http.tls_client_ca) {
        (Some(_), Some(_)) => "TLS with certificates of clients",
        (Some(_), None) => "TLS",
        _ => "no TLS",
    };
    Ok(format!("access {access}, {tls}, the store opens"))
}

fn try_address(args: &ServeArgs) -> Result<String> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = match &args.http.unix_socket {
            Some(path) => Listener::unix(path).await?,
            None => Listener::tcp(args.http.host, args.http.port).await?,
        };
        Ok(format!("{} is free", listener.address()?))
    })
}
