//! The settings of `serve` in layers: built in, then the configuration file, then `OSSIA_*` variables, then flags.
//!
//! clap is the layering: it knows each setting once, with its name, type, help and default, puts flags before
//! variables before defaults, and says where a value came from. A value of the file becomes the default of its flag, so
//! that it is parsed and refused like one. A layering crate beside clap (figment, config) would need every setting a second
//! time, as an optional field.

mod file;
mod setting;

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

pub(crate) use setting::{Setting, Source, nearest};

use crate::cli::Cli;
use file::{ConfigFile, FileValue};

/// The commands that have the settings of `serve`, or some of them.
const LAYERED: [&str; 5] = ["serve", "config", "doctor", "key", "health"];
/// What a variable is called before the name of the flag.
pub(crate) const PREFIX: &str = "OSSIA_";

/// A command line over its layers.
pub(crate) struct Parsed {
    pub(crate) cli: Cli,
    /// Of a layered command, in the order of its help; else empty.
    pub(crate) settings: Vec<Setting>,
}

/// Parses a command line. One that is wrong, or asks for help, ends the program here.
///
/// # Errors
/// The configuration file cannot be read, has a key that does not exist, or a value that its setting refuses.
pub(crate) fn parse(args: &[OsString]) -> Result<Parsed> {
    // The first look is for the file only: what it says may be what is missing.
    let first =
        layered(None).ignore_errors(true).try_get_matches_from(args).unwrap_or_else(|error| error.exit());
    let Some((name, first)) = first.subcommand().filter(|(name, _)| LAYERED.contains(name)) else {
        let cli =
            layered(None).try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
        return Ok(Parsed { cli: cli.unwrap_or_else(|error| error.exit()), settings: Vec::new() });
    };
    let file = ConfigFile::find(first.get_one("config"))?;
    if let Some(file) = &file {
        check(file)?;
    }
    let mut command = layered(file.as_ref());
    let matches = command.try_get_matches_from_mut(args).unwrap_or_else(|error| error.exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let settings = settings(&command, name, &matches, file.as_ref());
    Ok(Parsed { cli, settings })
}

/// Refuses a file with a key that does not exist or a value that its flag would refuse, whether or not another layer
/// goes before it.
fn check(file: &ConfigFile) -> Result<()> {
    let mut command = layered(None);
    command.build(); // flags have no name for people before
    let Some(serve) = command.find_subcommand("serve") else { return Ok(()) };
    let names: Vec<String> = serve.get_arguments().filter_map(|arg| Some(name(arg)?.join("."))).collect();
    file.check_names(&names)?;
    for arg in serve.get_arguments() {
        let Some(name) = name(arg) else { continue };
        if let Some(FileValue { values, line, .. }) = file.get(&name)
            && let Some(reason) = refusal(serve, arg, values)
        {
            bail!("{}:{line}: {}", file.path().display(), reason.replace(&arg.to_string(), &name.join(".")));
        }
    }
    Ok(())
}

/// What clap has against these values of a flag, if anything.
fn refusal(command: &Command, arg: &Arg, values: &[String]) -> Option<String> {
    let flag = |value: &String| match arg.get_long() {
        Some(long) => format!("--{long}={value}"),
        None => value.clone(),
    };
    let error = command.clone().no_binary_name(true).try_get_matches_from(values.iter().map(flag)).err()?;
    // Whether it goes with the other settings is seen when all are there.
    let kinds = [ErrorKind::InvalidValue, ErrorKind::ValueValidation, ErrorKind::ArgumentConflict];
    let concerns = error.get(ContextKind::InvalidArg) == Some(&ContextValue::String(arg.to_string()));
    let text = error.to_string();
    let line = text.lines().next()?.trim_start_matches("error: ");
    (concerns && kinds.contains(&error.kind())).then(|| line.to_owned())
}

/// Variables beside those of the settings.
const OTHER_VARIABLES: [&str; 4] =
    ["OSSIA_CONFIG", "OSSIA_CUDA_LIB_DIRS", "OSSIA_ENCRYPTION_KEY", "OSSIA_OFFLINE"];

/// A variable that nobody reads is a mistake that would go unseen. It is no error, since others may name theirs so.
pub(crate) fn warn_of_unknown_variables(settings: &[Setting]) {
    let known: Vec<String> =
        settings.iter().map(|setting| format!("{PREFIX}{}", setting.key.to_uppercase())).collect();
    if known.is_empty() {
        return;
    }
    let found = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in found.filter(|name| name.starts_with(PREFIX)) {
        if !known.contains(&name) && !OTHER_VARIABLES.contains(&name.as_str()) {
            let meant = nearest(&name, known.iter().map(String::as_str)).unwrap_or_default();
            tracing::warn!("no setting is called {name}; did you mean {meant}?");
        }
    }
}

/// The command line with its variables and the values of the file.
fn layered(file: Option<&ConfigFile>) -> Command {
    LAYERED.iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |sub| sub.mut_args(|arg| layer(arg, file)))
    })
}

fn layer(arg: Arg, file: Option<&ConfigFile>) -> Arg {
    let Some(name) = name(&arg) else { return arg };
    let arg = if matches!(arg.get_action(), ArgAction::SetTrue) { switch(arg) } else { arg };
    let arg = arg.env(format!("{PREFIX}{}", name[1].to_uppercase())).hide_env(true);
    match file.and_then(|file| file.get(&name)) {
        Some(value) => arg.default_values(value.values.clone()),
        None => arg,
    }
}

/// A flag that can also be switched off, so that no layer has the last word: `--flag`, `--flag=false`.
fn switch(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_parser(BoolishValueParser::new())
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .hide_possible_values(true)
}

/// The table and the key of a setting in the file; help, version and the file itself are none.
fn name(arg: &Arg) -> Option<[String; 2]> {
    Some([arg.get_help_heading()?.to_lowercase(), arg.get_id().as_str().to_owned()])
}

fn settings(
    command: &Command,
    name_of: &str,
    matches: &ArgMatches,
    file: Option<&ConfigFile>,
) -> Vec<Setting> {
    let Some((_, matches)) = matches.subcommand() else { return Vec::new() };
    let args = command.find_subcommand(name_of).into_iter().flat_map(Command::get_arguments);
    let setting = |arg: &Arg| {
        let name = name(arg)?;
        let value = file.and_then(|file| file.get(&name));
        let place =
            value.and_then(|value| Some(Source::File { path: file?.path().to_owned(), line: value.line }));
        Some(Setting::new(arg, name, matches, place))
    };
    let mut settings: Vec<Setting> = args.filter_map(setting).collect();
    let sections: Vec<String> = settings.iter().map(|setting| setting.section.clone()).collect();
    settings.sort_by_key(|setting| sections.iter().position(|section| *section == setting.section));
    settings
}
