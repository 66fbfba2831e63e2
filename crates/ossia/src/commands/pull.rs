//! `ossia pull`: brings a checkpoint from the hub into the local cache and prints where it is.

use anyhow::Result;

use crate::cli::PullArgs;
use crate::hub::{self, HubEnv};

/// Downloads, resumes and verifies; the snapshot's path goes to stdout.
#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &PullArgs) -> Result<()> {
    let dir = hub::pull(&args.repo, &args.revision, &HubEnv::from_env())?;
    println!("{}", dir.display());
    Ok(())
}
