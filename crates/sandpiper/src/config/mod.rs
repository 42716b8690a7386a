//! Where settings come from: a flag, else a variable, else the file that `--config` names, else the default.
//!
//! What stands in the file becomes the default of the flag of the same name, so that there is one grammar, one check
//! and one place for each setting's meaning. Knows no setting by name.

mod effective;
mod file;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{ArgMatches, Command, Parser};

use crate::console::{BadConfig, output};
use file::Setting;

/// The flags by which a subcommand that reads a file is known.
const FILE_FLAG: &str = "config_file";
const PRINT_FLAG: &str = "print_config";

/// What the command line asks for.
pub enum Parsed<C> {
    /// This.
    Command(C),
    /// To see the settings, which has been done.
    Shown,
}

/// Reads the command line, the environment and the file. Ends the process where clap would: for help, and for what is
/// no command line.
pub fn parse<C: Parser>() -> anyhow::Result<Parsed<C>> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = C::command();
    let mut matches = command.clone().get_matches_from(&arguments);
    let Some((role, flags)) = matches.subcommand() else { return command_of(&mut matches) };
    let (role, file) = (role.to_owned(), file_of(flags));
    let settings = match &file {
        Some(path) => read(&command, &role, path).context(BadConfig)?,
        None => Vec::new(),
    };
    if file.is_some() {
        let with_file = |role| settings.iter().fold(role, Setting::as_default);
        matches = command.clone().mut_subcommand(&role, with_file).get_matches_from(&arguments);
    }
    let Some((_, flags)) = matches.subcommand() else { return command_of(&mut matches) };
    if flags.try_get_one::<bool>(PRINT_FLAG).ok().flatten() == Some(&true) {
        let role = command.find_subcommand(&role).expect("the subcommand was given");
        output::line(effective::describe(role, flags, &settings).trim_end())?;
        return Ok(Parsed::Shown);
    }
    command_of(&mut matches)
}

fn command_of<C: Parser>(matches: &mut ArgMatches) -> anyhow::Result<Parsed<C>> {
    match C::from_arg_matches_mut(matches) {
        Ok(command) => Ok(Parsed::Command(command)),
        Err(error) => error.format(&mut C::command()).exit(),
    }
}

/// The file that a role is to read; other subcommands have none.
fn file_of(flags: &ArgMatches) -> Option<PathBuf> {
    flags.try_get_one::<PathBuf>(FILE_FLAG).ok().flatten().cloned()
}

fn read(command: &Command, role: &str, path: &std::path::Path) -> anyhow::Result<Vec<Setting>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(file::settings(&text, &path.display().to_string(), command, role)?)
}

/// Whether a subcommand reads a file.
fn reads_file(command: &Command) -> bool {
    command.get_arguments().any(|argument| argument.get_id() == FILE_FLAG)
}

/// What a flag is called in the file; those that are none of the settings have no name.
fn key_of(argument: &clap::Arg) -> Option<String> {
    let is_setting = argument.get_id() != FILE_FLAG && argument.get_id() != PRINT_FLAG;
    argument.get_long().filter(|long| is_setting && *long != "help").map(|long| long.replace('-', "_"))
}
