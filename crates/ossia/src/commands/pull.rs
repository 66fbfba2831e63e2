//! `ossia pull`: brings a checkpoint from the hub into the local cache, or into a directory, and prints where it is.

use anyhow::Result;

use crate::cli::PullArgs;
use crate::hub::{self, HubEnv, RepoId, checksums};

/// Downloads, resumes and verifies; the path goes to stdout.
#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let (repo, env) = (RepoId { name: &args.repo, revision: &args.revision }, HubEnv::from_env());
    let Some(dir) = &args.to else {
        println!("{}", hub::pull(repo, &env)?.display());
        return Ok(());
    };
    hub::pull_to(repo, dir, &env)?;
    if let Some(seal) = checksums::seal(dir) {
        tracing::info!("SHA-256 of {}: {seal}", checksums::FILE);
    }
    println!("{}", dir.display());
    Ok(())
}
