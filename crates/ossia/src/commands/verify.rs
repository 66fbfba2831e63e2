//! `ossia verify`: are the files of a checkpoint those that were downloaded?

use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cli::VerifyArgs;
use crate::hub::{self, HubEnv, RepoId, checksums};
use crate::source::ModelSource;

/// Says of each file whether it is right; an error if one is not.
pub(crate) fn run(args: &VerifyArgs) -> Result<()> {
    let dir = directory(args)?;
    let verdicts = checksums::verify(&dir)?.with_context(|| {
        format!("{} has no {}, so there is nothing to compare with", dir.display(), checksums::FILE)
    })?;
    let mut num_failed = 0;
    for verdict in &verdicts {
        match &verdict.fault {
            None => writeln!(stdout(), "ok     {}", verdict.name)?,
            Some(fault) => {
                num_failed += 1;
                writeln!(stdout(), "FAILED {fault:#}")?;
            }
        }
    }
    if let Some(seal) = checksums::seal(&dir) {
        writeln!(stdout(), "SHA-256 of {}: {seal}", checksums::FILE)?;
    }
    match num_failed {
        0 => Ok(()),
        _ => bail!("{num_failed} of {} files are not what was downloaded", verdicts.len()),
    }
}

fn directory(args: &VerifyArgs) -> Result<PathBuf> {
    match &args.model {
        ModelSource::Directory(dir) => Ok(dir.clone()),
        ModelSource::Hub(name) => {
            hub::find_cached(RepoId { name, revision: &args.revision }, &HubEnv::from_env())
        }
        ModelSource::Demo | ModelSource::Scripted(_) => {
            bail!("the demo model and scripts have no files to verify")
        }
    }
}
