//! `ossia config`: the settings in force as a configuration file, each with where it came from.

use std::io::{Write, stdout};

use anyhow::Result;

use crate::config::Setting;

/// Prints all settings.
pub(crate) fn run(settings: &[Setting]) -> Result<()> {
    let mut out = stdout().lock();
    let mut section = "";
    for setting in settings {
        if setting.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            writeln!(out, "{gap}[{}]", setting.section)?;
            section = &setting.section;
        }
        writeln!(out, "{setting}")?;
    }
    Ok(())
}
